"""The engine's loop over a device whose time is simulated: slow machines, and deadlines that pass between steps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.random_checkpoint import write_random
from workers.vision.attempt import InFlightJobs
from workers.vision.checkpoint.checkpoint import Checkpoint, open_checkpoint
from workers.vision.engine.base import Delta, Done, EngineRequest, Event, Sampling
from workers.vision.engine.core import Parts
from workers.vision.engine.errors import DeadlineExceeded
from workers.vision.engine.model_runner import Forward
from workers.vision.engine.resident import ResidentEngine
from workers.vision.engine.schedule import Chunk, TileWork
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.transfers import Mark, Readback
from workers.vision.prompts import ImageSpan, Prompt
from workers.vision.watchdog import Watchdog

LAYERS = 24
SLOWER = 20  #: times than expected
TILE_S, ROW_S = 1.0, 0.01  #: expected
STALL_S = 1.0
TOKEN = 300


@dataclass
class Clock:
    """Stands for the module `time`."""

    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter(self) -> float:
        return self.now


class SimulatedRunner:
    """Takes `SLOWER` times the expected time, layer by layer, and always says the same token."""

    def __init__(self, clock: Clock) -> None:
        self.computed: dict[tuple[str, str], int] = {}
        self.seen: list[str] = []  #: requests in the order of their steps
        self.watch: Callable[[], object] = lambda: None
        self.layer_seconds: Callable[[float], float] = lambda seconds: seconds
        self._clock = clock
        self._layer_done: Callable[[], None] = lambda: None

    def after_each_layer(self, call: Callable[[], None]) -> None:
        self._layer_done = call

    def encode(self, work: list[TileWork]) -> list[torch.Tensor]:
        self._take(TILE_S * len(work))
        self.seen += [one.sequence.request.id for one in work]
        return [torch.zeros(1, 1) for _ in work]

    def forward(self, chunks: list[Chunk]) -> Forward:
        self._take(ROW_S * sum(chunk.rows for chunk in chunks))
        self.seen += [chunk.sequence.request.id for chunk in chunks]
        return Forward([chunk for chunk in chunks if chunk.completes], torch.zeros(0))

    def choose(self, forward: Forward, places: list[int]) -> Readback:
        return Readback(torch.full((len(places),), TOKEN))

    def mark(self) -> Mark:
        return Mark(torch.device("cpu"))

    def _take(self, seconds: float) -> None:
        for _ in range(LAYERS):
            self._clock.now += self.layer_seconds(SLOWER * seconds / LAYERS)
            self.watch()
            self._layer_done()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_random(Path(tmp_path_factory.mktemp("model")) / "tileq-demo"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    engine = ("engine.core", "engine.step_timer", "engine.engine_thread", "engine.scheduler", "engine.handle")
    for module in (*engine, "model.transfers", "watchdog"):
        monkeypatch.setattr(f"workers.vision.{module}.time", clock)
    return clock


@pytest.fixture
def runner(clock: Clock) -> SimulatedRunner:
    return SimulatedRunner(clock)


@pytest.fixture
def engine(runner: SimulatedRunner, checkpoint: Checkpoint) -> Iterator[ResidentEngine]:
    budget = StepBudget(512, 8, pause_s=1.0, longest_s=5.0, row_s=ROW_S, tile_s=TILE_S)
    simulated: Any = runner
    parts = Parts(simulated, checkpoint.config, checkpoint.tokenizer, 2000, 1 << 20, 4, budget)
    engine = ResidentEngine(parts)
    yield engine
    engine.close()


def asked(checkpoint: Checkpoint, id: str = "a", tiles: int = 0, new: int = 4) -> EngineRequest:
    per_tile = checkpoint.config.tokens_per_tile
    pixels = np.random.default_rng(len(id)).integers(0, 256, (tiles, 2, 2, 3), np.uint8)
    spans = (ImageSpan(0, tiles * per_tile, tiles),) if tiles else ()
    ids = [7] * (tiles * per_tile) + list(range(100, 140))
    return EngineRequest(id, Prompt(ids, spans, ""), pixels, Sampling(max_new_tokens=new))


def stalls(engine: ResidentEngine, runner: SimulatedRunner) -> list[str]:
    """What a watchdog that looks after each layer finds."""
    watchdog, found = Watchdog(engine, InFlightJobs(), STALL_S), list[str]()

    def watch() -> None:
        if reason := watchdog.stalled():
            found.append(reason)

    runner.watch = watch
    return found


def test_a_machine_much_slower_than_expected_is_not_taken_for_a_hanging_one_from_its_first_step_on(
    engine: ResidentEngine, runner: SimulatedRunner, checkpoint: Checkpoint, clock: Clock
) -> None:
    found, began = stalls(engine, runner), clock.now
    *_, done = engine.submit(asked(checkpoint, tiles=7))
    assert isinstance(done, Done)
    assert clock.now - began > SLOWER * 7 * TILE_S
    assert found == []


def test_a_layer_that_hangs_is_found(engine: ResidentEngine, runner: SimulatedRunner, checkpoint: Checkpoint) -> None:
    found = stalls(engine, runner)
    runner.layer_seconds = lambda _: 60.0
    list(engine.submit(asked(checkpoint, new=1)))
    assert "an engine step has been in progress for 60 s" in found[0]


def test_after_one_step_the_steps_follow_the_measured_speed(engine: ResidentEngine, checkpoint: Checkpoint) -> None:
    list(engine.submit(asked(checkpoint, tiles=1)))
    budget = engine.parts.budget
    assert budget.tile_s == pytest.approx(SLOWER * TILE_S)
    assert budget.tiles(decoding=True) == 1


def test_a_request_whose_deadline_passes_ends_between_steps_though_nobody_cancels(
    engine: ResidentEngine, checkpoint: Checkpoint, clock: Clock
) -> None:
    events: list[Event] = []
    with pytest.raises(DeadlineExceeded):
        events.extend(engine.submit(replace(asked(checkpoint, new=1000), deadline=clock.now + 60)))
    assert any(isinstance(event, Delta) for event in events)
    assert engine.stats().used_pages == 0


def test_a_request_that_can_not_meet_its_deadline_is_never_computed(
    engine: ResidentEngine, runner: SimulatedRunner, checkpoint: Checkpoint, clock: Clock
) -> None:
    list(engine.submit(asked(checkpoint, tiles=1)))
    with pytest.raises(DeadlineExceeded):
        list(engine.submit(replace(asked(checkpoint, "late", tiles=7), deadline=clock.now + 30)))
    assert "late" not in runner.seen
