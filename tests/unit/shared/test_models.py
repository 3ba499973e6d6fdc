"""The registry holds the family of the card."""

from shared.models import BY_ID, MODELS, find_model


def test_ids_are_unique_and_the_family_is_whole() -> None:
    assert len(BY_ID) == len(MODELS)
    assert set(BY_ID) == {
        "mini-internvl-chat-v1.5",
        "internvl-chat-v1.5",
        "internvl-chat-v1.2-plus",
        "internvl-chat-v1.2",
        "internvl-chat-v1.1",
        "tileq-demo",
    }


def test_a_model_is_known_by_id_hub_id_and_folder() -> None:
    mini = BY_ID["mini-internvl-chat-v1.5"]
    for name in (
        mini.id,
        mini.hub_id,
        f"{mini.hub_id}@abc",
        f"/models/{mini.hub_id.split('/')[1]}/",
        f"s3://m/{mini.id}",
    ):
        assert find_model(name) is mini
    assert find_model("someone/else") is None
    assert find_model("") is None


def test_only_the_models_of_1_5_tile() -> None:
    for model in MODELS:
        assert model.tiles == ((1, 40) if "1.5" in model.title or model.id == "tileq-demo" else (1, 1))
        assert model.thumbnail == (model.tiles != (1, 1))


def test_memory_is_above_that_of_the_weights() -> None:
    assert 4.41e9 < BY_ID["mini-internvl-chat-v1.5"].memory < 5.2e9
