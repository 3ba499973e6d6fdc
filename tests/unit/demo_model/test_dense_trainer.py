"""Training resumes from its saved state as if it had not been interrupted."""

import pytest
import torch

from infra.demo_model.dense_batches import BatchSpec
from infra.demo_model.dense_trainer import DensePhase, DenseTrainer, initialise_model
from infra.demo_model.heads import DenseHeads
from infra.demo_model.model import ChatModel, ModelConfig

PHASE = DensePhase(
    number=1,
    name="crops",
    steps=10,
    peak_rates=(0.02, 2e-3),
    decay_fraction=0.25,
    batches=((1.0, (BatchSpec("number", 9, 3, 2),)),),
)


def make_trainer(config: ModelConfig) -> DenseTrainer:
    torch.manual_seed(0)
    model = ChatModel(config, 300)
    initialise_model(model)
    return DenseTrainer(model, DenseHeads(config), PHASE)


def test_training_resumes_from_its_state_as_if_never_interrupted(config: ModelConfig) -> None:
    uninterrupted, interrupted, resumed = (make_trainer(config) for _ in range(3))
    losses = [uninterrupted.take_step() for _ in range(3)]
    interrupted.take_step()
    resumed.load_state_dict(interrupted.state_dict())
    assert [resumed.take_step() for _ in range(2)] == pytest.approx(losses[1:], rel=1e-3)


def test_metrics_are_of_the_steps_since_the_last_ones(config: ModelConfig) -> None:
    trainer = make_trainer(config)
    losses = [trainer.take_step() for _ in range(2)]
    metrics = trainer.pop_metrics()
    assert metrics["loss"] == pytest.approx(sum(losses) / 2, abs=1e-3)
    assert {"digit0", "glyph_left"} <= metrics.keys()
    last = trainer.take_step()
    assert trainer.pop_metrics()["loss"] == pytest.approx(last, abs=1e-3)
