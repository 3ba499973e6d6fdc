"""The watchdog ends a process whose engine hangs, and no other."""

import os
import time
from collections.abc import Callable

import pytest

from tests.unit.vision.worker_fixture import ScriptedEngine, WorkerFixture
from tests.waiting import eventually
from workers.vision.attempt import InFlightJobs
from workers.vision.engine.echo import EchoEngine
from workers.vision.watchdog import EX_SOFTWARE, Watchdog

Build = Callable[..., WorkerFixture]


def test_a_step_that_takes_too_long_is_noticed() -> None:
    engine = ScriptedEngine()
    watchdog = Watchdog(engine, InFlightJobs(), stall=60)
    assert watchdog.stalled() is None
    engine.busy_since = time.monotonic() - 30
    assert watchdog.stalled() is None
    engine.busy_since = time.monotonic() - 70
    assert "step" in (watchdog.stalled() or "")


def test_a_step_may_take_as_long_as_the_engine_allows_it_on_this_device() -> None:
    engine = ScriptedEngine()
    watchdog = Watchdog(engine, InFlightJobs(), stall=60)
    engine.busy_since, engine.step_allowance = time.monotonic() - 300, 1000
    assert watchdog.stalled() is None
    engine.step_allowance = 100
    assert "allowed: 100 s" in (watchdog.stalled() or "")


def test_an_aborted_job_that_does_not_leave_the_engine_is_noticed(build: Build) -> None:
    worker = build(engine=EchoEngine(0.3))
    job = worker.submit("word " * 20)
    worker.handle_hint_in_thread()
    worker.running(job)
    watchdog = Watchdog(worker.engine, worker.jobs, stall=60)
    (attempt,) = worker.jobs.all()
    assert watchdog.stalled() is None
    attempt.abort("deadline_exceeded")
    attempt.aborted_at -= 70
    assert job.id in (watchdog.stalled() or "")


def test_an_engine_that_can_not_tell_its_statistics_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stats() -> None:
        raise RuntimeError("CUDA error")

    engine = ScriptedEngine()
    monkeypatch.setattr(engine, "stats", stats)
    assert "CUDA error" in (Watchdog(engine, InFlightJobs(), stall=60).stalled() or "")


def test_a_hanging_engine_ends_the_process_and_a_working_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    engine = ScriptedEngine()
    watchdog = Watchdog(engine, InFlightJobs(), stall=0.2)
    watchdog.start()
    eventually(lambda: engine.stats_calls > 3)
    assert ended == []
    engine.busy_since = time.monotonic() - 1
    watchdog.join(10)
    assert ended == [EX_SOFTWARE]
