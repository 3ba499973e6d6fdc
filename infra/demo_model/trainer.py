"""One phase of training under way: what it keeps, how it steps, what it goes on from."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from infra.demo_model.data_parallel import SINGLE_PROCESS, DataParallelGroup
from infra.demo_model.optim import WeightAverage, build_optimisers, set_learning_rates


class Trainer:
    """Weights, of which some learn, with their optimisers and their average."""

    def __init__(
        self,
        number: int,
        modules: Sequence[nn.Module],
        trained: Sequence[nn.Module],
        peak_rates: tuple[float, float],
        process_group: DataParallelGroup = SINGLE_PROCESS,
    ) -> None:
        self.number, self.peak_rates, self.process_group, self.step, self.stop_requested = (
            number,
            peak_rates,
            process_group,
            0,
            False,
        )
        self.modules = nn.ModuleList(modules)
        self.trained = [p for module in trained for p in module.parameters()]
        self.build_optimisers = build_optimisers(trained, *peak_rates)
        self.average = WeightAverage(self.modules)

    def apply_gradients(self, factor: float, *, stop_requested: bool) -> None:
        """Follow the gradients of all processes, at the peak rates times `factor`; learn whether one is to end."""
        set_learning_rates(self.build_optimisers, self.peak_rates, factor)
        self.stop_requested = self.process_group.average_gradients(self.trained, stop_requested=stop_requested)
        for optimiser in self.build_optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.average.update(self.modules)
        self.step += 1

    def reset_average(self) -> None:
        """Take the weights as they are now for the first ones."""
        self.average = WeightAverage(self.modules)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the phase needs to go on."""
        return {
            "phase": self.number,
            "step": self.step,
            "average": self.average.weights,
            "seen": self.average.updates,
            "weights": self.modules.state_dict(),
            "optimisers": [o.state_dict() for o in self.build_optimisers],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on from `saved`."""
        self.step, self.average.updates = saved["step"], saved["seen"]
        self.average.weights = saved["average"]
        self.modules.load_state_dict(saved["weights"])
        for optimiser, content in zip(self.build_optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(content)
