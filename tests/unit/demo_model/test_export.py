"""The bundled checkpoint is the trained model, whole; it answers as in training, and training resumes from it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from infra.demo_model import export, seeds, vocabulary
from infra.demo_model.conversations import about_counts, about_page
from infra.demo_model.dense_trainer import initialise_model
from infra.demo_model.evaluate import MAX_TILES, InferencePipeline
from infra.demo_model.heads import DenseHeads
from infra.demo_model.model import ChatModel, ModelConfig, normalise
from infra.demo_model.packing import IGNORE_LABEL, PackedRow, pack_row
from infra.demo_model.scenes import page_scene, shapes_scene
from tests.unit.demo_model.logits import answer_logits
from workers.vision.prompts import IMAGE_CONTEXT


def test_training_resumes_from_the_bundled_weights_where_its_own_state_is_lost() -> None:
    state = export.bundled_training_state()
    assert state is not None
    assert state["ended"]
    model = ChatModel(ModelConfig(), vocabulary.size())
    torch.nn.ModuleList([model, DenseHeads(model.config)]).load_state_dict(state["average"])


def test_the_bundle_is_small_and_says_how_it_is_laid_out() -> None:
    assert sum(file.stat().st_size for file in export.BUNDLED.iterdir()) < 15 << 20
    config_json = json.loads((export.BUNDLED / "config.json").read_text())
    assert config_json == export.config_json(ModelConfig(), vocabulary.size())
    assert config_json["template"] == "internlm2-chat"


def test_the_bundled_card_is_the_one_beside_the_code() -> None:
    assert (export.BUNDLED / "README.md").read_text() == export.CARD.read_text()


def test_training_does_not_resume_from_half_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "HEADS", export.HEADS / "missing")
    assert export.bundled_training_state() is None


def test_the_bundled_model_counts_shapes() -> None:
    pipeline, right = InferencePipeline(export.BUNDLED), 0
    for n in range(60):
        rng = seeds.check(70, n)
        scene = shapes_scene(rng)
        conversation = about_counts(rng, scene)
        right += pipeline.answer([scene.image], conversation, MAX_TILES) == conversation.answer
    pipeline.close()
    assert right >= 55


def test_the_exported_model_answers_as_the_model_in_training(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = ChatModel(ModelConfig(), vocabulary.size())
    initialise_model(trained)
    trained.load_state_dict({k: v.half().float() for k, v in trained.state_dict().items()})
    average = torch.nn.ModuleList([trained, DenseHeads(trained.config)]).state_dict()
    export.export_checkpoint({"phase": 3, "step": 0, "average": average}, tmp_path)
    pipeline = InferencePipeline(tmp_path, "float32")
    page = page_scene(seeds.check(30))
    conversation = about_page(seeds.check(30), page, 1)
    served = pipeline.answer([page.image], conversation, MAX_TILES)
    tiles = pipeline.tile(page.image, MAX_TILES)
    pipeline.close()
    with torch.no_grad():
        features = trained.encode_images(normalise(torch.from_numpy(tiles)))[1].flatten(0, 1)
    row = pack_row(
        pipeline.prompt_format,
        [conversation],
        [len(tiles)],
        features,
        image_classes=[torch.zeros(len(features), 17, dtype=torch.int8)],
        kept=None,
        rng=np.random.default_rng(3),
    )
    tokenizer = pipeline.prompt_format.tokenizer
    (first_logits,) = answer_logits(trained, [up_to_first_label(row)], tokenizer.token_id(IMAGE_CONTEXT))
    assert served.startswith(tokenizer.decode([int(first_logits.argmax())]).strip())


def up_to_first_label(row: PackedRow) -> PackedRow:
    """The prompt of a row of one conversation, with consecutive positions."""
    n = next(i for i, label in enumerate(row.labels) if label != IGNORE_LABEL) + 1
    return PackedRow(
        row.ids[:n], list(range(n)), row.segments[:n], row.labels[:n], row.features, row.attention_targets[:1]
    )
