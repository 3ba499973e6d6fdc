"""What is bundled is the trained model, whole, and training can go on from it."""

import json

import pytest
import torch

from infra.demo_model import export, seeds, vocabulary
from infra.demo_model.conversations import about_counts
from infra.demo_model.evaluate import InferencePipeline
from infra.demo_model.heads import DenseHeads
from infra.demo_model.model import ChatModel, ModelConfig
from infra.demo_model.scenes import shapes_scene


def test_training_goes_on_from_the_bundled_weights_where_its_own_state_is_lost() -> None:
    restored = export.bundled_training_state()
    assert restored is not None
    assert restored["ended"]
    model = ChatModel(ModelConfig(), vocabulary.size())
    torch.nn.ModuleList([model, DenseHeads(model.config)]).load_state_dict(restored["average"])


def test_the_bundle_is_small_and_says_how_it_is_laid_out() -> None:
    assert sum(file.stat().st_size for file in export.BUNDLED.iterdir()) < 15 << 20
    config_json = json.loads((export.BUNDLED / "config.json").read_text())
    assert config_json == export.config_json(ModelConfig(), vocabulary.size())
    assert config_json["template"] == "internlm2-chat"


def test_the_card_that_is_bundled_is_the_one_beside_the_code() -> None:
    assert (export.BUNDLED / "README.md").read_text() == export.CARD.read_text()


def test_nothing_is_restored_of_half_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "HEADS", export.HEADS / "missing")
    assert export.bundled_training_state() is None


def test_the_bundled_model_counts_shapes() -> None:
    pipeline, right = InferencePipeline(export.BUNDLED), 0
    for n in range(60):
        rng = seeds.check(70, n)
        scene = shapes_scene(rng)
        conversation = about_counts(rng, scene)
        right += pipeline.answer([scene.image], conversation, 12) == conversation.answer
    pipeline.engine.close()
    assert right >= 55
