"""The figures that have a goal: each benchmark notes its own, and `make bench` prints all of them as one table."""

import json
import os
from dataclasses import asdict
from pathlib import Path

from workers.vision.bench.figure import Figure

FILE_VARIABLE = "BENCH_FIGURES"  #: of the environment: the file that figures are appended to


def at_most(name: str, value: float, bound: float, unit: str = "x") -> None:
    """Note a figure that should be small."""
    _note(Figure(name, value, unit, bound, at_most=True))


def at_least(name: str, value: float, bound: float, unit: str = "x") -> None:
    """Note a figure that should be large."""
    _note(Figure(name, value, unit, bound, at_most=False))


def noted(path: Path) -> list[Figure]:
    """The figures in a file, in the order in which they were noted."""
    return [Figure(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def _note(figure: Figure) -> None:
    if path := os.environ.get(FILE_VARIABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps(asdict(figure)) + "\n")
