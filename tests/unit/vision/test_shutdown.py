"""Graceful shutdown: nothing new, running jobs may end, the rest is released uncharged."""

import os
import threading
from collections.abc import Callable

import pytest

from shared.jobs import State
from shared.settings.roles import Settings
from tests.unit.vision.worker_fixture import WorkerFixture
from tests.waiting import eventually
from workers.vision import shutdown as module
from workers.vision.engine.echo import EchoEngine

Build = Callable[..., WorkerFixture]
LONG = " ".join(["word"] * 38)


def stop(worker: WorkerFixture) -> threading.Thread:
    """Request the shutdown and let it run; its thread ends since the process counts as finished."""
    worker.shutdown.finished.set()
    worker.shutdown.start()
    worker.shutdown.request()
    return worker.shutdown


def test_a_job_that_ends_within_the_grace_ends(build: Build) -> None:
    worker = build(engine=EchoEngine(0.1), settings=Settings(shutdown_grace=5, cancel_interval=0.05))
    job = worker.submit("a b c d e f g h")
    thread = worker.handle_hint_in_thread()
    worker.running(job)
    stop(worker).join(5)
    thread.join()
    assert (worker.state(job), worker.read(job).released) == (State.SUCCEEDED, 0)


def test_what_is_left_after_the_grace_is_released_uncharged(build: Build) -> None:
    worker = build(engine=EchoEngine(0.2), settings=Settings(shutdown_grace=0.2))
    job = worker.submit(LONG)
    thread = worker.handle_hint_in_thread()
    worker.running(job)
    stop(worker).join(2)
    thread.join(2)
    now = worker.read(job)
    assert (now.state, now.charged, now.attempt, now.owner) == (State.QUEUED, 0, 1, "")
    assert worker.engine.stats().running == 0
    assert worker.hints.jobs == [job.id]  # so that another worker need not wait for the reconciler


def test_a_second_signal_ends_the_grace(build: Build) -> None:
    worker = build(engine=EchoEngine(0.2), settings=Settings(shutdown_grace=60))
    job = worker.submit(LONG)
    worker.handle_hint_in_thread()
    worker.running(job)
    thread = stop(worker)
    assert worker.state(job) is State.RUNNING
    worker.shutdown.request()
    thread.join(10)
    assert not thread.is_alive()
    eventually(lambda: worker.state(job) is State.QUEUED)


def test_no_claim_after_the_signal_and_the_hint_goes_to_others(worker: WorkerFixture) -> None:
    job = worker.submit()
    worker.shutdown.request()
    assert worker.handle_hint(job.id) == 0
    assert (worker.state(job), worker.hints.jobs) == (State.QUEUED, [job.id])


def test_no_second_job_after_the_signal(build: Build) -> None:
    worker = build(engine=EchoEngine(0.1), settings=Settings(cancel_interval=0.05))
    first, second = worker.submit("a b c d e f g h"), worker.submit("next")
    thread = worker.handle_hint_in_thread()
    worker.running(first)
    worker.shutdown.request()
    thread.join(5)
    assert (worker.state(first), worker.state(second)) == (State.SUCCEEDED, State.QUEUED)


def test_a_job_whose_thread_does_not_come_back_is_released_all_the_same(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(EchoEngine):
        def cancel(self, request_id: str) -> None:
            pass

    monkeypatch.setattr(module, "ENGINE_EXIT_TIMEOUT_S", 0.3)
    worker = build(engine=Deaf(2), settings=Settings(shutdown_grace=0))
    job = worker.submit("word")
    thread = worker.handle_hint_in_thread()
    worker.running(job)
    stop(worker).join(2)
    assert (worker.state(job), worker.read(job).charged) == (State.QUEUED, 0)
    thread.join(10)
    assert worker.state(job) is State.QUEUED  # its late word does not count


def test_a_process_that_does_not_end_by_itself_is_ended(worker: WorkerFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(module, "PROCESS_EXIT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(os, "_exit", ended.append)
    worker.shutdown.start()
    worker.shutdown.request()
    worker.shutdown.join(2)
    assert ended == [0]
