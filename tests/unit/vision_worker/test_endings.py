"""Every other way in which an attempt ends."""

import time
from collections.abc import Callable, Iterator

import pytest

from shared.errors import QueueUnavailable
from shared.jobs import Job, State
from shared.settings import Settings
from shared.storage import result_key
from shared.store import transitions
from tests.unit.vision_worker.house import BROKEN, MODEL, House, ScriptedEngine
from tests.waiting import eventually
from workers.vision import asking
from workers.vision.engine.base import (
    ContextExceeded,
    DeviceLost,
    EngineClosed,
    EngineRequest,
    Event,
    NonFiniteLogits,
    OutOfMemory,
    Stage,
)
from workers.vision.engine.echo import EchoEngine
from workers.vision.sandbox import SandboxError
from workers.vision.worker import ATTEMPTS

Build = Callable[..., House]
LONG = " ".join(["word"] * 38)  #: what the echo engine says back, a word at a time


def attempts(outcome: str) -> float:
    return float(ATTEMPTS.labels(outcome)._value.get())


def failed(house: House, job: Job, code: str, *, retryable: bool, image: int | None = None) -> str:
    """The message of the error, all else as expected."""
    ended = house.read(job)
    assert ended.state is State.FAILED
    assert ended.error is not None
    message: str = ended.error.pop("message")
    assert ended.error == {"code": code, "retryable": retryable, "image": image}
    return message


def queued_again(house: House, job: Job, charged: int) -> None:
    now = house.read(job)
    assert (now.state, now.charged, now.error) == (State.QUEUED, charged, None)


# --- permanent


def test_a_picture_that_can_not_be_decoded_fails_the_job_at_once_and_is_named(house: House) -> None:
    job = house.submit("?", images=[b"fine", BROKEN, b"fine"], groups=(3,))
    house.look()
    message = failed(house, job, "undecodable_image", retryable=False, image=1)
    assert "image 1" in message
    assert house.read(job).attempt == 1


def test_a_prompt_without_room_for_an_answer_fails_the_job(build: Build) -> None:
    house = build(engine=ScriptedEngine(ContextExceeded("9 tokens; the context holds 8")))
    job = house.submit()
    house.look()
    assert failed(house, job, "prompt_too_long", retryable=False) == "9 tokens; the context holds 8"


def test_logits_that_are_not_finite_fail_the_job(build: Build) -> None:
    house = build(engine=ScriptedEngine(NonFiniteLogits("NaN in float16")))
    job = house.submit()
    house.look()
    assert failed(house, job, "non_finite_logits", retryable=False) == "NaN in float16"


def test_what_nobody_thought_of_fails_the_job_without_telling_internals(build: Build) -> None:
    house = build(engine=ScriptedEngine(Stage("prefill"), ZeroDivisionError("secret detail")))
    job = house.submit()
    house.look()
    assert "secret" not in failed(house, job, "internal", retryable=True)


def test_an_unreadable_request_fails_the_job_and_not_the_worker(house: House) -> None:
    broken, fine = house.submit(request="{nonsense"), house.submit()
    assert house.look() == 2
    failed(house, house.read(broken), "internal", retryable=True)
    assert house.state(fine) is State.SUCCEEDED


def test_events_that_stop_without_an_answer_fail_the_job(build: Build) -> None:
    house = build(engine=ScriptedEngine(Stage("prefill")))
    job = house.submit()
    house.look()
    failed(house, job, "internal", retryable=True)


# --- transient


def missing_image(house: House) -> None:
    house.objects.delete("jobs/")


def other_bytes(house: House) -> None:
    for key in list(house.objects.keys("jobs/")):
        house.objects.put(key, b"others", "image/png")


def storage_full(house: House) -> None:
    house.objects.refused = ".json"


def no_sandbox(house: House) -> None:
    def tile(*_: object) -> None:
        raise SandboxError("no process")

    house.sandbox.tile = tile  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (missing_image, "storage_unavailable"),
        (other_bytes, "storage_unavailable"),
        (storage_full, "storage_unavailable"),
        (no_sandbox, "internal"),
    ],
)
def test_passing_trouble_is_tried_again_and_fails_the_last_attempt(
    build: Build, trouble: Callable[[House], None], code: str
) -> None:
    house = build(settings=Settings(retry_backoff=60))
    job = house.submit("?", images=[b"picture"], max_attempts=1)
    other = house.submit("?", images=[b"picture"], max_attempts=2)
    trouble(house)
    house.look()
    failed(house, job, code, retryable=True, image=0 if code == "internal" else None)
    queued_again(house, other, charged=1)
    assert house.read(other).not_before > time.time() + 20


def test_memory_that_neighbours_hold_is_tried_again(build: Build) -> None:
    house = build(engine=ScriptedEngine(OutOfMemory("CUDA")), settings=Settings(retry_backoff=60))
    job, last = house.submit(), house.submit(max_attempts=1)
    house.look()
    queued_again(house, job, charged=1)
    failed(house, last, "out_of_memory", retryable=True)


@pytest.mark.parametrize("error", [EngineClosed(), DeviceLost("CUDA error: device-side assert triggered")])
def test_a_dead_engine_ends_the_process_and_leaves_the_job_to_its_lease(
    build: Build, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def end() -> None:
        raise Ended

    monkeypatch.setattr(asking, "end_now", end)
    house = build(engine=ScriptedEngine(error))
    job = house.submit()
    with pytest.raises(Ended):
        house.look()
    assert house.state(job) is State.RUNNING


# --- cancelled, late


@pytest.mark.parametrize("seconds_per_token", [0.1, 60])
def test_a_cancelled_job_leaves_the_engine_within_a_second(build: Build, seconds_per_token: float) -> None:
    house = build(engine=EchoEngine(seconds_per_token))
    job = house.submit(LONG)
    thread = house.look_aside()
    house.running(job)
    assert house.store.run(transitions.cancel("acme", job.id)).value == "cancelling"
    asked = time.monotonic()
    eventually(lambda: house.state(job) is State.CANCELLED, within=1)
    assert time.monotonic() - asked < 1
    thread.join(1)
    assert house.engine.stats().running == 0
    assert house.read(job).result == ""


def test_a_job_cancelled_while_its_picture_is_decoded_never_reaches_the_engine(build: Build) -> None:
    engine = ScriptedEngine()
    house = build(engine=engine)
    house.sandbox.hold.clear()
    job = house.submit("?", images=[b"picture"])
    thread = house.look_aside()
    house.running(job, "tile")
    house.store.run(transitions.cancel("acme", job.id))
    eventually(lambda: house.state(job) is State.CANCELLED, within=1)
    thread.join(1)
    assert engine.asked == []


def test_a_job_past_run_within_stops_in_the_engine(build: Build) -> None:
    house = build(engine=EchoEngine(0.1))
    job = house.submit(LONG, run_within=0.4)
    began = time.monotonic()
    house.look()
    assert time.monotonic() - began < 1.5
    assert "run_within" in failed(house, job, "timed_out", retryable=True)
    assert house.engine.stats().running == 0


def test_a_job_past_run_within_before_the_engine_never_reaches_it(build: Build) -> None:
    engine = ScriptedEngine()
    house = build(engine=engine)
    house.sandbox.hold.clear()
    job = house.submit("?", images=[b"picture"], run_within=0.2)
    house.look()
    failed(house, job, "timed_out", retryable=True)
    assert engine.asked == []


def test_the_deadline_is_kept_while_the_store_is_away_and_the_engine_silent(build: Build) -> None:
    house = build(engine=EchoEngine(60), settings=Settings(cancel_interval=0.05))
    job = house.submit(LONG, run_within=0.4)
    house.store.away = lambda script: script == "heartbeat"
    house.look()
    failed(house, job, "timed_out", retryable=True)


def test_the_deadline_is_kept_even_without_a_pulse(build: Build) -> None:
    class Slow(ScriptedEngine):
        def submit(self, request: EngineRequest) -> Iterator[Event]:
            for event in super().submit(request):
                time.sleep(0.3)
                yield event

    engine = Slow(Stage("prefill"), Stage("decode"))
    house = build(engine=engine)
    house.pulse.close()
    job = house.submit(LONG, run_within=0.2)
    house.look()
    failed(house, job, "timed_out", retryable=True)
    assert engine.cancelled == [f"{job.id}/1"]


# --- stale


def to_another(house: House, job: Job) -> Job:
    """Lose the lease of `job`, as a frozen worker does, and let another claim it."""
    house.store.client.zadd(f"{house.store.prefix}leases", {job.id: 0})
    house.store.run(transitions.reap(0))
    claimed = eventually(lambda: house.store.run(transitions.claim(MODEL, "worker-2", 60)).value)
    assert isinstance(claimed, Job)
    return claimed


def test_a_worker_that_lost_the_lease_stops_and_writes_nothing(build: Build) -> None:
    house = build(engine=EchoEngine(0.1))
    job = house.submit(LONG)
    before = attempts("lease_lost")
    thread = house.look_aside()
    house.running(job)
    second = to_another(house, job)
    thread.join(2)
    assert not thread.is_alive()
    assert attempts("lease_lost") == before + 1
    now = house.read(job)
    assert (now.state, now.attempt, now.owner, now.stage) == (State.RUNNING, 2, "worker-2", "")
    assert list(house.objects.keys(result_key(job.id, 1))) == []
    assert house.store.run(transitions.finish(job.id, second.attempt, State.SUCCEEDED, {})).value


def test_an_answer_that_comes_after_another_attempt_began_is_refused(build: Build) -> None:
    house = build(settings=Settings(cancel_interval=60, retry_backoff=0))  # nobody tells it
    house.pulse.close()
    house.sandbox.hold.clear()
    job = house.submit("?", images=[b"picture"])
    before = attempts("lease_lost")
    thread = house.look_aside()
    eventually(lambda: house.state(job) is State.RUNNING)
    to_another(house, job)
    house.sandbox.hold.set()
    thread.join(2)
    assert attempts("lease_lost") == before + 1
    now = house.read(job)
    assert (now.state, now.attempt, now.result) == (State.RUNNING, 2, "")


def test_a_lease_that_could_not_be_renewed_is_taken_for_lost(build: Build) -> None:
    house = build(engine=EchoEngine(0.1), settings=Settings(lease=0.6, cancel_interval=0.05))
    job = house.submit(LONG)
    before = attempts("lease_lost")
    house.store.away = lambda script: script == "heartbeat"
    began = time.monotonic()
    house.look()
    assert 0.5 < time.monotonic() - began < 2
    assert attempts("lease_lost") == before + 1
    assert house.engine.stats().running == 0
    assert house.state(job) is State.RUNNING  # the reconciler reaps it


# --- the store away at the end


def test_the_end_is_told_again_until_the_store_takes_it(build: Build) -> None:
    house = build()
    job = house.submit()
    tries: list[str] = []

    def away(script: str) -> bool:
        if script == "finish":
            tries.append(script)
        return script == "finish" and len(tries) < 3

    house.store.away = away
    house.look()
    assert (house.state(job), len(tries)) == (State.SUCCEEDED, 3)


def test_the_end_is_given_up_with_the_lease(build: Build) -> None:
    house = build(settings=Settings(lease=1.2, cancel_interval=0.1))
    job = house.submit()
    before = attempts("abandoned")
    house.store.away = lambda script: script in ("finish", "heartbeat")
    began = time.monotonic()
    house.look()
    assert 0.5 < time.monotonic() - began < 2.5
    assert attempts("abandoned") == before + 1
    house.store.away = lambda script: False
    assert house.state(job) is State.RUNNING
    assert house.objects.get(result_key(job.id, 1))


def test_the_store_away_is_not_the_engines_fault(house: House) -> None:
    house.store.away = lambda script: True
    with pytest.raises(QueueUnavailable):
        house.presence.announce(1)
    house.pulse.attempt()  # says so in the log and lives on
    assert house.pulse.is_alive()


# --- two of the same job in one worker


def test_a_stale_attempt_and_its_successor_do_not_meet_in_the_engine(build: Build) -> None:
    house = build(engine=EchoEngine(0.1), settings=Settings(cancel_interval=5, retry_backoff=0))
    job = house.submit(LONG)
    first = house.look_aside()
    house_holds = eventually(house.hands.all)
    house.store.client.zadd(f"{house.store.prefix}leases", {job.id: 0})
    house.store.run(transitions.reap(0))
    second = house.look_aside()
    eventually(lambda: len(house.hands.all()) == 2)
    assert eventually(lambda: house.engine.stats().running) in (1, 2)
    assert {held.key for held in house.hands.all()} == {f"{job.id}/1", f"{job.id}/2"}
    for held in house_holds:
        held.drop("lease_lost")
        house.engine.cancel(held.key)
    first.join(5)
    second.join(10)
    assert (house.state(job), house.read(job).attempt) == (State.SUCCEEDED, 2)
