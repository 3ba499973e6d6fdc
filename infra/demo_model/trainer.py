"""One training phase: the forward and backward pass is the subclass's; steps, averages, logs and saves are here."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from infra.demo_model import training_checkpoint
from infra.demo_model.data_parallel import SINGLE_PROCESS, DataParallelGroup
from infra.demo_model.optim import WeightAverage, build_optimisers, set_learning_rates
from infra.demo_model.training_checkpoint import SaveTimer
from infra.demo_model.training_log import log

LOG_INTERVAL_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One training phase and its learning rate schedule: linear warm-up, constant, linear decay.

    The schedule is that of Zhai et al. 2022 (arXiv:2106.04560) with a linear decay.
    """

    number: int
    name: str
    steps: int
    peak_rates: tuple[float, float]  #: learning rates of Muon and of AdamW after the warm-up
    warmup_steps: int
    decay_fraction: float  #: part of the steps, at the end, in which the rates decay
    min_rate_factor: float  #: the rates never fall below their peaks times this

    def rate_factor(self, step: int) -> float:
        """Return the factor on the peak learning rates at `step`."""
        decay = (self.steps - step) / (self.decay_fraction * self.steps)
        return max(self.min_rate_factor, min(1.0, (step + 1) / self.warmup_steps, decay))


class Trainer(ABC):
    """The modules of one phase, with the optimisers of those that are trained and the average of all weights.

    `modules` are saved and averaged; `trained` are those of them whose parameters are updated.
    """

    def __init__(
        self,
        phase: Phase,
        modules: Sequence[nn.Module],
        trained: Sequence[nn.Module],
        process_group: DataParallelGroup = SINGLE_PROCESS,
    ) -> None:
        self.phase, self.process_group = phase, process_group
        self.step, self.stop_requested = 0, False
        self.modules = nn.ModuleList(modules)
        self.trained = [p for module in trained for p in module.parameters()]
        self.optimisers = build_optimisers(trained, *phase.peak_rates)
        self.average = WeightAverage(self.modules)

    @abstractmethod
    def accumulate_gradients(self) -> float:
        """Run the forward and backward passes of one step; return its loss."""

    @abstractmethod
    def pop_metrics(self) -> dict[str, float]:
        """Return the metrics of the steps since the last call."""

    def train(self, timer: SaveTimer) -> bool:
        """Step to the end of the phase and leave the averaged weights in the modules; return False if stopped."""
        while self.step < self.phase.steps:
            self.take_step(stop_requested=timer.stop_requested)
            self.report()
            if self.process_group.is_main and timer.is_due(stop_requested=self.stop_requested):
                training_checkpoint.save(self.state_dict())
            if self.stop_requested:
                return False
        if self.process_group.is_main:
            training_checkpoint.save(self.state_dict())
        self.process_group.barrier()
        self.modules.load_state_dict(self.average.weights)
        return True

    def take_step(self, *, stop_requested: bool = False) -> float:
        """Take one step and return its loss.

        Raises `FloatingPointError` for a loss that is not finite, before it reaches the weights and the saved state.
        """
        loss = self.accumulate_gradients()
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}; start again: training resumes from the last saved state")
        self.apply_gradients(stop_requested=stop_requested)
        return loss

    def report(self) -> None:
        """Log the metrics of the last steps, every 50 steps, on the main rank."""
        if self.step % LOG_INTERVAL_STEPS == 0:
            metrics = self.pop_metrics()
            if self.process_group.is_main:
                log(phase=self.phase.name, step=self.step, **metrics)

    def apply_gradients(self, *, stop_requested: bool) -> None:
        """Average the gradients over all ranks and update the weights; note whether any rank has to stop."""
        set_learning_rates(self.optimisers, self.phase.peak_rates, self.phase.rate_factor(self.step))
        self.stop_requested = self.process_group.average_gradients(self.trained, stop_requested=stop_requested)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.average.update(self.modules)
        self.step += 1

    def reset_average(self) -> None:
        """Start the average anew from the weights as they are."""
        self.average = WeightAverage(self.modules)

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which the phase resumes; its keys are those of the saved file."""
        return {
            "phase": self.phase.number,
            "step": self.step,
            "average": self.average.weights,
            "seen": self.average.updates,
            "weights": self.modules.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Resume from `saved`, a `state_dict` of the same phase."""
        self.step, self.average.updates = saved["step"], saved["seen"]
        self.average.weights = saved["average"]
        self.modules.load_state_dict(saved["weights"])
        for optimiser, content in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(content)
