"""One phase of training under way: what it keeps, how it steps, what it goes on from."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from infra.demo_model.data_parallel import ALONE, Pair
from infra.demo_model.optim import Average, optimisers, set_rate


class Course:
    """Weights, of which some learn, with their optimisers and their average."""

    def __init__(
        self,
        number: int,
        kept: Sequence[nn.Module],
        learning: Sequence[nn.Module],
        rates: tuple[float, float],
        pair: Pair = ALONE,
    ) -> None:
        self.number, self.rates, self.pair, self.step, self.ending = number, rates, pair, 0, False
        self.kept = nn.ModuleList(kept)
        self.learning = [p for module in learning for p in module.parameters()]
        self.optimisers = optimisers(learning, *rates)
        self.average = Average(self.kept)

    def update(self, factor: float, *, ending: bool) -> None:
        """Follow the gradients of all processes, at the peak rates times `factor`; learn whether one is to end."""
        set_rate(self.optimisers, self.rates, factor)
        self.ending = self.pair.average(self.learning, ending=ending)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        self.average.follow(self.kept)
        self.step += 1

    def begin(self) -> None:
        """Take the weights as they are now for the first ones."""
        self.average = Average(self.kept)

    def state(self) -> dict[str, Any]:
        """Return all that the phase needs to go on."""
        return {
            "phase": self.number,
            "step": self.step,
            "average": self.average.weights,
            "seen": self.average.seen,
            "weights": self.kept.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
        }

    def resume(self, saved: dict[str, Any]) -> None:
        """Go on from `saved`."""
        self.step, self.average.seen = saved["step"], saved["seen"]
        self.average.weights = saved["average"]
        self.kept.load_state_dict(saved["weights"])
        for optimiser, content in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(content)
