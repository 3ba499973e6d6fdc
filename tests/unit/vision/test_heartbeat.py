"""Heartbeats renew leases, report progress and hear verdicts."""

from collections.abc import Callable
from typing import Any

from shared.jobs import State
from shared.settings.roles import Settings
from shared.store import transitions
from tests.unit.vision.worker_fixture import PER_TILE, WorkerFixture
from tests.waiting import eventually
from workers.vision.engine.echo import EchoEngine

Build = Callable[..., WorkerFixture]
LONG = " ".join(["word"] * 20)


def heartbeats(worker: WorkerFixture) -> list[tuple[Any, ...]]:
    return [call.args for call in worker.store.calls if call.script == "heartbeat"]


def test_progress_is_written_while_the_job_runs(build: Build) -> None:
    worker = build(engine=EchoEngine(0.1), settings=Settings(cancel_interval=0.1))
    job = worker.submit(LONG, images=[b"image"])
    thread = worker.handle_hint_in_thread()
    eventually(lambda: worker.read(job).completion_tokens > 2)
    seen = worker.read(job)
    assert (seen.state, seen.stage, seen.tiles, seen.prompt_tokens) == (
        State.RUNNING,
        "decode",
        3,
        3 * PER_TILE + len(LONG),
    )
    thread.join()


def test_only_unreported_progress_is_sent(build: Build) -> None:
    worker = build(settings=Settings(cancel_interval=0.05))
    worker.decoder.gate.clear()
    worker.submit("?", images=[b"image"])
    thread = worker.handle_hint_in_thread()
    eventually(lambda: len(heartbeats(worker)) > 4)
    worker.decoder.gate.set()
    thread.join()
    assert sum('"stage": "tile"' in args[1] for args in heartbeats(worker)) == 1


def test_leases_are_renewed_for_as_long_as_the_job_runs(build: Build) -> None:
    worker = build(engine=EchoEngine(0.08), settings=Settings(lease=0.6))
    job = worker.submit(LONG)
    thread = worker.handle_hint_in_thread()
    reaped: list[str] = []

    def done() -> bool:
        reaped.extend(worker.store.run(transitions.reap(0)).value)
        return not thread.is_alive()

    eventually(done)
    assert reaped == []
    assert (worker.state(job), worker.read(job).attempt) == (State.SUCCEEDED, 1)


def test_reports_are_more_frequent_than_renewals(build: Build) -> None:
    worker = build(engine=EchoEngine(0.1), settings=Settings(cancel_interval=0.05, lease=3))
    worker.submit(LONG)
    worker.handle_hint()
    leases = [args[0] for args in heartbeats(worker)]
    assert 1 <= sum(lease == 3 for lease in leases) <= 3
    assert sum(lease == 0 for lease in leases) > 10


def test_one_heartbeat_carries_all_jobs(build: Build) -> None:
    worker = build(engine=EchoEngine(0.05), settings=Settings(cancel_interval=0.1))
    for _ in range(5):
        worker.submit(LONG)
    threads = [worker.handle_hint_in_thread() for _ in range(5)]
    eventually(lambda: any(args[1].count("job_") == 5 for args in heartbeats(worker)))
    for thread in threads:
        thread.join()


def test_an_idle_worker_asks_about_no_job(worker: WorkerFixture) -> None:
    eventually(lambda: any(call.script == "register_worker" for call in worker.store.calls))
    assert heartbeats(worker) == []


def test_the_heartbeat_survives_an_unexpected_error(build: Build) -> None:
    worker = build(engine=EchoEngine(0.05), settings=Settings(cancel_interval=0.05))
    raised: list[str] = []

    def away(script: str) -> bool:
        if script == "heartbeat" and not raised:
            raised.append(script)
            raise ZeroDivisionError
        return False

    worker.store.away = away
    job = worker.submit(LONG)
    worker.handle_hint()
    assert raised
    assert heartbeats(worker)
    assert worker.heartbeat.is_alive()
    assert worker.state(job) is State.SUCCEEDED
