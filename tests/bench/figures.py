"""The figures that have a goal: each benchmark notes its own, and `make bench` prints all of them as one table."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FILE_VARIABLE = "BENCH_FIGURES"  #: of the environment: the file that figures are appended to


@dataclass(frozen=True)
class Goal:
    """A figure and the bound that it is to keep."""

    name: str
    value: float
    unit: str
    bound: float
    at_most: bool  #: else at least

    @property
    def met(self) -> bool:
        """Whether the figure keeps its bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def row(self) -> tuple[str, str, str, str]:
        """Name, figure, goal, met or missed."""
        sign = "<=" if self.at_most else ">="
        return (
            self.name,
            f"{self.value:.3g} {self.unit}",
            f"{sign} {self.bound:g} {self.unit}",
            "met" if self.met else "missed",
        )


def at_most(name: str, value: float, bound: float, unit: str = "x") -> None:
    """Note a figure that should be small."""
    _note(Goal(name, value, unit, bound, at_most=True))


def at_least(name: str, value: float, bound: float, unit: str = "x") -> None:
    """Note a figure that should be large."""
    _note(Goal(name, value, unit, bound, at_most=False))


def noted(path: Path) -> list[Goal]:
    """The figures in a file, in the order in which they were noted."""
    return [Goal(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def _note(goal: Goal) -> None:
    if path := os.environ.get(FILE_VARIABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps(asdict(goal)) + "\n")
