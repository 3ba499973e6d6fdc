"""A phase runs to its end, stops when asked to, and never applies a loss that is not finite."""

import json
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from infra.demo_model import training_checkpoint
from infra.demo_model.trainer import Phase, Trainer
from infra.demo_model.training_checkpoint import SaveTimer

PHASE = Phase(
    number=1,
    name="toy",
    steps=100,
    peak_rates=(0.1, 0.1),
    warmup_steps=10,
    decay_fraction=0.5,
    min_rate_factor=0.05,
)


class ToyTrainer(Trainer):
    """Fits one weight to 1; asks the timer to stop at a step; returns the loss it is given instead of its own."""

    def __init__(self, timer: SaveTimer, stop_at: int = -1, loss: float | None = None) -> None:
        self.layer = nn.Linear(1, 1)
        self.timer, self.stop_at, self.loss = timer, stop_at, loss
        module = nn.ModuleDict({"layers": nn.ModuleList([self.layer])})  # Muon takes the matrices of "layers"
        super().__init__(PHASE, [module], [module])

    def accumulate_gradients(self) -> float:
        self.timer.stop_requested = self.step + 2 == self.stop_at
        loss = (self.layer(torch.ones(1)) - 1).square().sum()
        loss.backward()
        return loss.item() if self.loss is None else self.loss

    def pop_metrics(self) -> dict[str, float]:
        return {"weight": self.layer.weight.item()}


@pytest.fixture
def timer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SaveTimer:
    monkeypatch.setattr(training_checkpoint, "OUTPUT_FOLDER", tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return SaveTimer()


def test_rates_rise_stay_and_fall() -> None:
    factors = [PHASE.rate_factor(step) for step in range(PHASE.steps)]
    assert factors[0] == 0.1
    assert factors[9:50] == [1.0] * 41
    assert factors[75] == 0.5
    assert factors[-1] == 0.05


def test_a_phase_that_ends_is_saved_and_leaves_the_average_in_its_modules(timer: SaveTimer) -> None:
    trainer = ToyTrainer(timer)
    assert trainer.train(timer)
    saved = training_checkpoint.load()
    assert saved is not None
    assert (saved["phase"], saved["step"]) == (1, 100)
    assert torch.equal(trainer.layer.weight, saved["average"]["0.layers.0.weight"])
    assert not torch.equal(saved["weights"]["0.layers.0.weight"], saved["average"]["0.layers.0.weight"])


def test_metrics_are_logged_every_fifty_steps(timer: SaveTimer) -> None:
    ToyTrainer(timer).train(timer)
    lines = (training_checkpoint.OUTPUT_FOLDER / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [50, 100]


def test_a_stop_saves_the_step_and_ends_the_phase_early(timer: SaveTimer) -> None:
    assert not ToyTrainer(timer, stop_at=7).train(timer)
    saved = training_checkpoint.load()
    assert saved is not None
    assert saved["step"] == 7


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_reaches_no_weight(timer: SaveTimer, loss: float) -> None:
    trainer = ToyTrainer(timer, loss=loss)
    before = trainer.layer.weight.clone()
    with pytest.raises(FloatingPointError, match=str(loss)):
        trainer.train(timer)
    assert torch.equal(trainer.layer.weight, before)
    assert training_checkpoint.load() is None
