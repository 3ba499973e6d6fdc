"""`make bench-growth`: step time by running jobs, memory by tiles, throughput by queue length; a table and a plot.

Mini's widths and vocabulary with 4 of its 24 layers, random weights, so that a layer costs what Mini's does. A point
grows faster than its size if it costs more for each job or tile than the cheapest point before it by `TOLERANCE`.
"""

import argparse
import ctypes
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure

from tests.bench.accept import machine
from tests.bench.engine_peers import stages
from tests.bench.figures import at_most
from tests.bench.measured_engine import MeasuredEngine
from workers.vision.bench.random_model import MINI, make_model
from workers.vision.engine.assembly import resident_engine
from workers.vision.prompts import IMAGE_CONTEXT

JOBS = (1, 2, 4, 8, 16, 32, 64)
TILES = (1, 2, 4, 7, 13, 26, 41)
TOLERANCE = 0.2  # by which a point may cost more for each one than a smaller one did, the noise of a busy machine


@dataclass(frozen=True)
class Series:
    """What grows with what."""

    name: str
    over: str
    unit: str
    points: list[tuple[int, float]]
    rate: bool = False  #: the values are speeds, of which the largest is the best, and not amounts

    def surprises(self) -> list[int]:
        """Sizes at which the amount grew faster than the size, or the speed fell."""
        found, best = [], float("inf")
        for size, value in self.points:
            each = 1 / value if self.rate else value / size
            if each > best * (1 + TOLERANCE):
                found.append(size)
            best = min(best, each)
        return found

    def rows(self) -> Iterator[str]:
        """Markdown, the surprises marked."""
        yield f"\n| {self.over} | {self.name}, {self.unit} | {'' if self.rate else 'for each one'} |\n|---|---|---|"
        surprises = self.surprises()
        for size, value in self.points:
            each = "" if self.rate else f"{value / size:.3g}"
            yield f"| {size} | {value:.3g} | {each}{' super-linear' if size in surprises else ''} |"


class Growth:
    """The three series over one model."""

    def __init__(self, layers: int) -> None:
        sizes = {part: values | {"num_hidden_layers": layers} for part, values in MINI.items()}
        self._model = make_model(sizes, torch.device("cpu"), torch.bfloat16)

    def step_time(self, running: Sequence[int]) -> Series:
        """Milliseconds of a step that gives each running answer one token."""
        with self._engine(slots=max(running)) as measured:
            for size in running:
                measured.decode_together(size)
            rates = [max(measured.taken[stages.decode_together(size)]) for size in running]
        points = [(size, 1000 * size / rate) for size, rate in zip(running, rates, strict=True)]
        return Series("step time", "running jobs", "ms", points)

    def memory(self, tiles: Sequence[int]) -> Series:
        """Megabytes that one request adds at its peak: tiles, features, keys and values, tensors of the steps.

        What the allocator keeps of the point before, in the thread that has ended, goes back to the system first.
        """
        points = []
        for size in tiles:
            ctypes.CDLL(None).malloc_trim(0)
            before = _status("VmRSS")
            with self._engine(warm=False) as measured:
                Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew
                measured.ask(measured.request(size, 1))
                points.append((size, (_status("VmHWM") - before) / 1e6))
        return Series("memory", "tiles", "MB", points)

    def throughput(self, queued: Sequence[int]) -> Series:
        """Jobs a second of one tile and `stages.NEW` tokens each, 8 of them running and the others in the queue."""
        points = []
        with self._engine(slots=8) as measured:
            for size in queued:
                measured.together(size)
                points.append((size, size / measured.taken[stages.together(size)][0]))
        return Series("throughput", "jobs in the queue", "jobs/s", points, rate=True)

    @contextmanager
    def _engine(self, slots: int = 0, *, warm: bool = True) -> Iterator[MeasuredEngine]:
        """A fresh engine."""
        engine = resident_engine(*self._model, slots=slots)
        measured = MeasuredEngine(engine, self._model[2].token_id(IMAGE_CONTEXT))
        if warm:
            measured.ask(measured.request(1, 4))
        try:
            yield measured
        finally:
            engine.close()


def plot(found: Sequence[Series], path: Path) -> None:
    """Draw the series beside one another on doubly logarithmic axes, what is proportional to the size dashed."""
    figure = Figure(figsize=(5 * len(found), 4), layout="constrained")
    for series, axes in zip(found, figure.subplots(1, len(found), squeeze=False)[0], strict=True):
        sizes, values = zip(*series.points, strict=True)
        axes.loglog(sizes, values, marker="o", label="measured")
        best = min(value / size for size, value in series.points)
        axes.loglog(sizes, [max(values)] * len(sizes) if series.rate else [best * size for size in sizes], "--",
                    label="the best, kept" if series.rate else "proportional")  # fmt: skip
        axes.set(title=f"{series.name} by {series.over}", xlabel=series.over, ylabel=series.unit)
        axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=4, help="of each tower; Mini has 24")
    parser.add_argument("--most", type=int, default=64, help="largest number of jobs and tiles")
    parser.add_argument("--out", type=Path, default=Path("build/growth.png"))
    chosen = parser.parse_args()
    print(f"{time.strftime('%d %B %Y')}, {machine()}, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    growth, found = Growth(chosen.layers), []
    for measure, sizes in ((growth.memory, TILES), (growth.step_time, JOBS), (growth.throughput, JOBS)):
        found.append(measure([size for size in sizes if size <= chosen.most]))
        print("\n".join(found[-1].rows()), flush=True)
    plot(found, chosen.out)
    for series in found:
        at_most(f"{series.name}: sizes that cost more for each one", len(series.surprises()), 0, "sizes")
    print(f"\n{chosen.out}: {sum(len(series.surprises()) for series in found)} points grow faster than their size")


def _status(name: str) -> int:
    """A size in bytes of this process, as the kernel counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = [line for line in lines if line.startswith(name)]
    return 1024 * int(found.split()[1])


if __name__ == "__main__":
    main()
