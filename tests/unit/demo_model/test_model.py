"""The model as it is trained is the model as it is served."""

from pathlib import Path

import numpy as np
import pytest
import torch

from infra.demo_model import dense_trainer, feature_cache, seeds, training_checkpoint, vocabulary
from infra.demo_model.attention_supervision import token_classes
from infra.demo_model.conversations import about_one, about_page, random_drawing
from infra.demo_model.dense_batches import BatchSpec, draw_batch
from infra.demo_model.dense_targets import dense_targets
from infra.demo_model.evaluate import InferencePipeline
from infra.demo_model.export import export_checkpoint
from infra.demo_model.heads import DenseHeads
from infra.demo_model.initialisation import phase_rotation, positional_encoding
from infra.demo_model.model import ChatModel, ModelConfig, dot_product_attention, normalise, pixel_shuffle
from infra.demo_model.optim import orthogonalise
from infra.demo_model.packing import IGNORE_LABEL, PackedRow, pack_row, pad_rows
from infra.demo_model.prompt_format import load_prompt_format
from infra.demo_model.scenes import page_scene
from workers.vision.prompts import IMAGE_CONTEXT

SMALL_CONFIG = ModelConfig(vision_layers=2, layers=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    vocabulary.write(folder)
    return folder


@pytest.fixture(scope="module")
def model(tokenizer: Path) -> ChatModel:
    torch.manual_seed(0)
    small = ChatModel(SMALL_CONFIG, vocabulary.write(tokenizer))
    dense_trainer.initialise_model(small)
    return small


def logits(model: ChatModel, rows: list[PackedRow], context: int) -> list[torch.Tensor]:
    packed = pad_rows(rows, context)
    with torch.no_grad():
        x = model.language_model.model.tok_embeddings(packed.ids)
        x = x.masked_scatter((packed.ids == context)[..., None], packed.features)
        hidden = model.language_model(x, packed.positions, packed.attention_mask)
        return list(model.language_model.output(hidden[packed.labels != IGNORE_LABEL]))


@pytest.mark.parametrize(
    "text", ["\nHow many red shapes are there in the second picture?", "\nTOTAL 的数值是多少？", "Grüße 你好 x"]
)
def test_text_comes_back_from_its_ids(tokenizer: Path, text: str) -> None:
    made = load_prompt_format(tokenizer).tokenizer
    assert made.decode(made.encode_text(text)) == text


def test_a_number_is_one_token_for_each_digit(tokenizer: Path) -> None:
    assert len(load_prompt_format(tokenizer).tokenizer.encode_text("480213")) == 6


def test_packed_conversations_compute_what_each_would_alone(tokenizer: Path, model: ChatModel) -> None:
    spoken = load_prompt_format(tokenizer)
    scene = random_drawing(seeds.check(20))
    conversations = [about_one(seeds.check(21, n), scene, 1 + n % 2) for n in range(3)]
    features = torch.randn(196, SMALL_CONFIG.width)

    def packed(some: list[int]) -> PackedRow:
        rng = np.random.default_rng(3)
        made = pack_row(
            spoken,
            [conversations[i] for i in some],
            [1],
            features,
            image_classes=[token_classes(dense_targets(scene))],
            kept=None,
            rng=rng,
        )
        cut = made.segments.index(1)
        made.positions = [
            p if segment == 0 else cut + sum(q == segment for q in made.segments[:i])
            for i, (p, segment) in enumerate(zip(made.positions, made.segments, strict=True))
        ]
        return made

    context = spoken.tokenizer.token_id(IMAGE_CONTEXT)
    together = logits(model, [packed([0, 1, 2])], context)
    alone = [x for i in range(3) for x in logits(model, [packed([i])], context)]
    torch.testing.assert_close(torch.stack(together), torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_pixel_shuffle_joins_the_four_neighbours_of_a_token() -> None:
    patches = torch.arange(4 * 6).float().view(1, 24, 1)
    assert pixel_shuffle(patches, 4, 6)[0, 1].tolist() == [2, 3, 8, 9]


def test_positions_match_at_their_offset_and_nowhere_near() -> None:
    line = positional_encoding(torch.arange(28).float())
    scores = line @ (phase_rotation(-2) @ line.T)
    assert all(abs(float(scores[i + 2 - 4, i]) - 8) < 1e-4 for i in range(2, 28))
    assert float((scores[:, 10] - 8 * (torch.arange(28) == 8)).abs()[:24].max()) < 1e-3


def test_the_fused_kernel_attends_as_attention_written_out_does() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 2, 3, 5, 8), torch.randn(2, 2, 1, 5, 8), torch.randn(2, 2, 1, 5, 8)
    bias = torch.zeros(2, 1, 1, 5, 5).masked_fill(torch.rand(2, 1, 1, 5, 5) < 0.4, -1e4)
    written = ((q * 8**-0.5) @ k.transpose(-1, -2) + bias).softmax(-1) @ v
    torch.testing.assert_close(dot_product_attention(q, k, v, bias), written)


def test_orthogonal_keeps_directions_and_levels_their_lengths() -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(1, 64, 64))[0])
    assert 0.6 < float(singular.quantile(0.05)) < float(singular.max()) < 1.3


def test_the_served_model_says_what_the_trained_one_says(tmp_path: Path, tokenizer: Path) -> None:
    torch.manual_seed(0)
    whole = ChatModel(ModelConfig(), vocabulary.write(tokenizer))
    dense_trainer.initialise_model(whole)
    whole.load_state_dict({k: v.half().float() for k, v in whole.state_dict().items()})
    saved = {"phase": 3, "step": 0, "average": torch.nn.ModuleList([whole, DenseHeads(whole.config)]).state_dict()}
    export_checkpoint(saved, tmp_path)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 15_000_000
    pipeline = InferencePipeline(tmp_path, "float32")
    page = page_scene(seeds.check(30))
    conversation = about_page(seeds.check(30), page, 1)
    served = pipeline.answer([page.image], conversation, 12)
    tiles = pipeline.tiles(page.image, 12)
    pipeline.engine.close()
    with torch.no_grad():
        features = whole.encode_images(normalise(torch.from_numpy(tiles)))[1].flatten(0, 1)
    seen = [torch.zeros(len(features), 17, dtype=torch.int8)]
    made = pack_row(
        pipeline.prompt_format,
        [conversation],
        [len(tiles)],
        features,
        image_classes=seen,
        kept=None,
        rng=np.random.default_rng(3),
    )
    first = made.labels.index(next(w for w in made.labels if w != IGNORE_LABEL))
    made = PackedRow(
        made.ids[: first + 1],
        list(range(first + 1)),
        made.segments[: first + 1],
        made.labels[: first + 1],
        features,
        made.attention_targets[:1],
    )
    token = int(logits(whole, [made], pipeline.prompt_format.tokenizer.token_id(IMAGE_CONTEXT))[0].argmax())
    assert served.startswith(pipeline.prompt_format.tokenizer.decode([token]).strip())


def test_training_goes_on_from_its_state_as_if_never_interrupted() -> None:
    phase = dense_trainer.DensePhase(1, "crops", ((1.0, (BatchSpec("number", 9, 3, 2),)),), 10, (0.02, 2e-3), 0.25)

    def make() -> dense_trainer.DenseTrainer:
        torch.manual_seed(0)
        small = ChatModel(SMALL_CONFIG, 300)
        dense_trainer.initialise_model(small)
        return dense_trainer.DenseTrainer(small, DenseHeads(SMALL_CONFIG), phase)

    straight, halted = make(), make()
    for _ in range(2):
        straight.advance()
    halted.advance()
    resumed = make()
    resumed.load_state_dict(halted.state_dict())
    assert straight.advance()[0] == pytest.approx((resumed.advance(), resumed.advance())[1][0], rel=1e-3)


def test_a_state_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_checkpoint, "OUTPUT_FOLDER", tmp_path)
    assert training_checkpoint.load("x.pt") is None
    training_checkpoint.save("x.pt", {"step": 1})
    training_checkpoint.save("x.pt", {"step": 2})
    assert training_checkpoint.load("x.pt") == {"step": 2}
    assert [f.name for f in tmp_path.iterdir()] == ["x.pt"]


def test_a_page_put_together_of_tiles_has_the_fields_of_a_page(model: ChatModel) -> None:
    tiles = feature_cache.FeatureCache()
    for step in range(2):
        feature_cache.add_tiles(tiles, model, seeds.check(40, step), (4, 7, 1, 1))
    page, chosen = feature_cache.compose_page(tiles, seeds.check(41))
    assert len(chosen) == 7
    assert 3 <= len(page.fields) <= 6
    assert sum(len(t.scene.fields) for t in chosen[:6]) == len(page.fields)


def test_new_drawings_are_crowds_as_often_as_asked(model: ChatModel) -> None:
    mixed, crowded = feature_cache.FeatureCache(), feature_cache.FeatureCache()
    feature_cache.add_tiles(mixed, model, seeds.check(42), (9, 0, 0, 0))
    feature_cache.add_tiles(crowded, model, seeds.check(42), (9, 0, 0, 0), repeated_share=1.0)
    assert any(t.scene.number for t in mixed.drawings)
    assert not any(t.scene.number for t in crowded.drawings)


def test_a_thinned_tile_keeps_what_stands_on_it_and_looks_at_nothing_else(model: ChatModel) -> None:
    whole, thin = (
        draw_batch(BatchSpec("whole", 14, 14, 3, kept_tokens=kept_tokens), seeds.check(50)) for kept_tokens in (0, 120)
    )
    assert thin.kept_tokens is not None
    assert (thin.patches > 0).sum() == (whole.patches > 0).sum()
    assert (thin.tokens > 0).sum() == (whole.tokens > 0).sum()
    assert np.array_equal(thin.tokens, np.take_along_axis(whole.tokens, thin.kept_tokens[:, :, None], 1))
    pixels, kept_tokens = normalise(torch.from_numpy(thin.images)), torch.from_numpy(thin.kept_tokens)
    painted = pixels.clone()
    for i, kept in enumerate(thin.kept_tokens):
        for cell in set(range(196)) - set(kept.tolist()):
            pack_row, column = divmod(cell, 14)
            painted[i, :, 32 * pack_row : 32 * pack_row + 32, 32 * column : 32 * column + 32] = 9
    with torch.no_grad():
        seen, same = (model.encode_images(x, None, kept_tokens) for x in (pixels, painted))
    assert seen[0].shape[1] == 480
    assert seen[1].shape[1] == 120
    torch.testing.assert_close(seen, same)


def test_keeping_every_token_is_looking_at_the_whole_tile(model: ChatModel) -> None:
    pixels = normalise(torch.from_numpy(draw_batch(BatchSpec("whole", 14, 14, 1), seeds.check(51)).images))
    with torch.no_grad():
        whole, kept = model.encode_images(pixels)[1], model.encode_images(pixels, None, torch.arange(196)[None])[1]
    torch.testing.assert_close(whole, kept, rtol=1e-3, atol=1e-4)
