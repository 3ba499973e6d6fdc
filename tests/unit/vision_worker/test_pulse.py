"""The sign of life: leases, progress, verdicts."""

import time
from collections.abc import Callable
from typing import Any

from shared.jobs import State
from shared.settings import Settings
from shared.store import transitions
from tests.unit.vision_worker.house import PER_TILE, House
from tests.waiting import eventually
from workers.vision.engine.echo import EchoEngine

Build = Callable[..., House]
LONG = " ".join(["word"] * 20)


def beats(house: House) -> list[tuple[Any, ...]]:
    return [call.args for call in house.store.calls if call.script == "heartbeat"]


def test_progress_is_written_while_the_job_runs(build: Build) -> None:
    house = build(engine=EchoEngine(0.1), settings=Settings(cancel_interval=0.1))
    job = house.submit(LONG, images=[b"picture"])
    thread = house.look_aside()
    eventually(lambda: house.read(job).completion_tokens > 2)
    seen = house.read(job)
    assert (seen.state, seen.stage, seen.tiles, seen.prompt_tokens) == (
        State.RUNNING,
        "decode",
        3,
        3 * PER_TILE + len(LONG),
    )
    thread.join()


def test_only_news_are_sent(build: Build) -> None:
    house = build(settings=Settings(cancel_interval=0.05))
    house.sandbox.hold.clear()
    house.submit("?", images=[b"picture"])
    thread = house.look_aside()
    eventually(lambda: len(beats(house)) > 4)
    house.sandbox.hold.set()
    thread.join()
    assert sum('"stage": "tile"' in args[1] for args in beats(house)) == 1


def test_leases_are_renewed_for_as_long_as_the_job_runs(build: Build) -> None:
    house = build(engine=EchoEngine(0.08), settings=Settings(lease=0.6))
    job = house.submit(LONG)
    thread = house.look_aside()
    while thread.is_alive():
        assert house.store.run(transitions.reap(0)).value == []
        time.sleep(0.05)
    assert (house.state(job), house.read(job).attempt) == (State.SUCCEEDED, 1)


def test_looking_is_more_frequent_than_renewing(build: Build) -> None:
    house = build(engine=EchoEngine(0.1), settings=Settings(cancel_interval=0.05, lease=3))
    house.submit(LONG)
    house.look()
    leases = [args[0] for args in beats(house)]
    assert 1 <= sum(lease == 3 for lease in leases) <= 3
    assert sum(lease == 0 for lease in leases) > 10


def test_all_jobs_travel_in_one_beat(build: Build) -> None:
    house = build(engine=EchoEngine(0.05), settings=Settings(cancel_interval=0.1))
    for _ in range(5):
        house.submit(LONG)
    threads = [house.look_aside() for _ in range(5)]
    eventually(lambda: any(args[1].count("job_") == 5 for args in beats(house)))
    for thread in threads:
        thread.join()


def test_an_idle_worker_asks_about_no_job(house: House) -> None:
    eventually(lambda: any(call.script == "register_worker" for call in house.store.calls))
    assert beats(house) == []


def test_the_pulse_survives_what_nobody_thought_of(build: Build) -> None:
    house = build(engine=EchoEngine(0.05), settings=Settings(cancel_interval=0.05, lease=0.3))
    raised: list[str] = []

    def away(script: str) -> bool:
        if script == "heartbeat" and not raised:
            raised.append(script)
            raise ZeroDivisionError
        return False

    house.store.away = away
    job = house.submit(LONG)
    house.look()
    assert raised
    assert house.state(job) is State.SUCCEEDED
