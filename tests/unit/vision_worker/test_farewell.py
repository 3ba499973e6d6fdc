"""Going: nothing new, the running ones may end, the rest is given back uncharged. And hanging: the watchdog."""

import os
import threading
import time
from collections.abc import Callable

import pytest

from shared.jobs import State
from shared.settings import Settings
from tests.unit.vision_worker.house import House, ScriptedEngine
from tests.waiting import eventually
from workers.vision import farewell as module
from workers.vision.engine.echo import EchoEngine
from workers.vision.watchdog import Watchdog

Build = Callable[..., House]
LONG = " ".join(["word"] * 38)


def going(house: House) -> threading.Thread:
    """Say stop, and let the farewell run; it ends by itself since the process `is over`."""
    house.farewell.over.set()
    house.farewell.start()
    house.farewell.begin()
    return house.farewell


def test_a_job_that_ends_within_the_grace_ends(build: Build) -> None:
    house = build(engine=EchoEngine(0.1), settings=Settings(shutdown_grace=5, cancel_interval=0.05))
    job = house.submit("a b c d e f g h")
    thread = house.look_aside()
    house.running(job)
    going(house).join(5)
    thread.join()
    assert (house.state(job), house.read(job).released) == (State.SUCCEEDED, 0)


def test_what_is_left_after_the_grace_is_given_back_uncharged(build: Build) -> None:
    house = build(engine=EchoEngine(0.2), settings=Settings(shutdown_grace=0.2))
    job = house.submit(LONG)
    thread = house.look_aside()
    house.running(job)
    going(house).join(2)
    thread.join(2)
    now = house.read(job)
    assert (now.state, now.charged, now.attempt, now.owner) == (State.QUEUED, 0, 1, "")
    assert house.engine.stats().running == 0
    assert house.hints.jobs == [job.id]  # so that another worker need not wait for the reconciler


def test_a_second_signal_ends_the_grace(build: Build) -> None:
    house = build(engine=EchoEngine(0.2), settings=Settings(shutdown_grace=60))
    job = house.submit(LONG)
    house.look_aside()
    house.running(job)
    thread = going(house)
    thread.join(0.3)
    assert thread.is_alive()
    house.farewell.begin()
    thread.join(1)
    assert not thread.is_alive()
    eventually(lambda: house.state(job) is State.QUEUED)


def test_no_claim_after_the_signal_and_the_hint_goes_to_others(house: House) -> None:
    job = house.submit()
    house.farewell.begin()
    assert house.worker.look(job.id) == 0
    assert (house.state(job), house.hints.jobs) == (State.QUEUED, [job.id])


def test_no_second_job_after_the_signal(build: Build) -> None:
    house = build(engine=EchoEngine(0.1), settings=Settings(cancel_interval=0.05))
    first, second = house.submit("a b c d e f g h"), house.submit("next")
    thread = house.look_aside()
    house.running(first)
    house.farewell.begin()
    thread.join(5)
    assert (house.state(first), house.state(second)) == (State.SUCCEEDED, State.QUEUED)


def test_a_job_whose_thread_does_not_come_back_is_given_back_all_the_same(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(EchoEngine):
        def cancel(self, request_id: str) -> None:
            pass

    monkeypatch.setattr(module, "LEAVE", 0.3)
    house = build(engine=Deaf(2), settings=Settings(shutdown_grace=0))
    job = house.submit("word")
    thread = house.look_aside()
    house.running(job)
    going(house).join(2)
    assert (house.state(job), house.read(job).charged) == (State.QUEUED, 0)
    thread.join(10)
    assert house.state(job) is State.QUEUED  # its late word does not count


def test_a_process_that_does_not_end_by_itself_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(module, "END", 0.1)
    monkeypatch.setattr(os, "_exit", ended.append)
    house.farewell.start()
    house.farewell.begin()
    house.farewell.join(2)
    assert ended == [0]


# --- the watchdog


def test_a_step_that_takes_too_long_is_noticed(build: Build) -> None:
    engine = ScriptedEngine()
    house = build(engine=engine)
    dog = Watchdog(engine, house.hands, stall=5)
    assert dog.hung() is None
    engine.busy_since = time.monotonic() - 4
    assert dog.hung() is None
    engine.busy_since = time.monotonic() - 6
    assert "step" in (dog.hung() or "")


def test_a_job_that_does_not_stop_is_noticed(build: Build) -> None:
    house = build(engine=EchoEngine(0.3))
    job = house.submit(LONG)
    house.look_aside()
    house.running(job)
    dog = Watchdog(house.engine, house.hands, stall=5)
    (held,) = house.hands.all()
    assert dog.hung() is None
    held.why, held.dropped = "deadline_exceeded", time.monotonic() - 6
    assert job.id in (dog.hung() or "")


def test_an_engine_that_can_not_tell_its_figures_is_noticed(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def stats() -> None:
        raise RuntimeError("CUDA error")

    house = build(engine=ScriptedEngine())
    monkeypatch.setattr(house.engine, "stats", stats)
    assert "CUDA error" in (Watchdog(house.engine, house.hands, stall=5).hung() or "")


def test_a_hanging_engine_ends_the_process(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    engine = ScriptedEngine()
    house = build(engine=engine)
    dog = Watchdog(engine, house.hands, stall=0.2)
    dog.start()
    dog.join(0.3)
    assert ended == []
    engine.busy_since = time.monotonic() - 1
    dog.join(2)
    assert ended == [70]
