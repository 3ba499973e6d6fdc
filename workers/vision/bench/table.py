"""The table of `tileq bench`: throughput and latency of the resident engine and the stock model, by tiles of a job."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from workers.vision.bench import goals
from workers.vision.bench.figure import Figure
from workers.vision.bench.measure import Requests, Taken, serve
from workers.vision.bench.random_model import Kind
from workers.vision.engine.base import Engine
from workers.vision.engine.resident import ResidentEngine
from workers.vision.model.fast_path import FastPath

Say = Callable[[str], None]
WARM_UP_TOKENS = 4


@dataclass(frozen=True)
class Load:
    """How much is asked of each engine."""

    jobs: int  #: at once
    new: int  #: tokens of each answer
    tiles: Sequence[int]  #: of a job: a round of measurements for each
    baseline_jobs: int  #: for the stock model, which answers one at a time: its throughput needs no more

    @property
    def has_goals(self) -> bool:
        """Whether the goals were set for this load."""
        return (self.jobs, self.new) == (goals.JOBS, goals.NEW_TOKENS)


@dataclass
class Table:
    """Figures in the order in which they were measured; what an error ends keeps those before it."""

    figures: list[Figure] = field(default_factory=list)
    paths: tuple[FastPath, ...] = ()


def measure(  # noqa: PLR0917 - what, how much, where to
    table: Table, start: Callable[[Kind], Engine], requests: Requests, load: Load, judged: bool, say: Say
) -> None:
    """Fill `table`, engine after engine, so that one model is in memory at a time. Raises what engines raise.

    `judged`: the figures have goals, because the model and the device are such that they were set for.
    """
    tiles = [count for count in load.tiles if requests.fits(count, load.new)]
    for count in sorted(set(load.tiles) - set(tiles)):
        say(f"{count} tiles are left out: they do not fit into the model's context")
    alone: dict[int, Taken] = {}
    many: dict[int, Taken] = {}
    with _running(start, "resident", requests) as engine:
        if isinstance(engine, ResidentEngine):
            table.paths = engine.parts.paths
        for count in tiles:
            say(f"resident engine, jobs {_of(count)}: one, then {load.jobs}")
            alone[count] = serve(engine, [requests.one(count, load.new)])
            many[count] = serve(engine, [requests.one(count, load.new) for _ in range(load.jobs)])
            table.figures += _resident(count, alone[count], many[count], load, judged)
    if not load.baseline_jobs:
        return
    with _running(start, "transformers", requests) as engine:
        for count in tiles:
            say(f"transformers engine, jobs {_of(count)}: {load.baseline_jobs}, one after the other")
            taken = serve(engine, [requests.one(count, load.new) for _ in range(load.baseline_jobs)])
            table.figures += _beside(count, taken, alone[count], many[count], judged)


@contextmanager
def _running(start: Callable[[Kind], Engine], kind: Kind, requests: Requests) -> Iterator[Engine]:
    """A warm engine, whose memory is free again afterwards."""
    engine = start(kind)
    try:
        serve(engine, [requests.one(1, WARM_UP_TOKENS)])
        yield engine
    finally:
        engine.close()
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _resident(tiles: int, alone: Taken, many: Taken, load: Load, judged: bool) -> Iterator[Figure]:
    judged = judged and load.has_goals
    throughput = goals.JOBS_PER_SECOND.get(tiles) if judged else None
    decode = goals.DECODE_TOKENS_PER_SECOND if judged and tiles == min(load.tiles) else None
    of = _of(tiles)
    yield Figure(f"{load.jobs} jobs {of}, {load.new} tokens each", many.jobs_per_second, "jobs/s", throughput)
    yield Figure(f"{load.jobs} jobs {of}, their tokens", many.generated / many.seconds, "tokens/s")
    yield Figure(f"one job {of}", alone.seconds, "s")
    yield Figure(f"one job {of}, decoding", alone.decode_tokens_per_second, "tokens/s", decode)


def _beside(tiles: int, stock: Taken, alone: Taken, many: Taken, judged: bool) -> Iterator[Figure]:
    each, of = stock.seconds / stock.jobs, _of(tiles)
    throughput, latency = (goals.THROUGHPUT_RATIO, goals.LATENCY_RATIO) if judged else (None, None)
    yield Figure(f"transformers engine, one job {of}", each, "s")
    yield Figure(f"jobs/s beside it, {of}", many.jobs_per_second * each, "x", throughput)
    yield Figure(f"latency beside it, {of}", each / alone.seconds, "x", latency)


def _of(tiles: int) -> str:
    return f"of {tiles} tile{'s' if tiles > 1 else ''}"
