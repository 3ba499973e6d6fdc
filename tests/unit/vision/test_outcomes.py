"""What becomes of an attempt that does not simply succeed."""

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from shared.ended import newest_groups, open_line, read_group
from shared.errors import QueueUnavailable
from shared.jobs import Job, State
from shared.records import JobError
from shared.request_archive import pack, unpack
from shared.requests import Generation
from shared.settings.roles import Settings
from shared.storage import result_key
from shared.store import transitions
from shared.tokenization.tokenizer import load_tokenizer
from tests.metrics import sample
from tests.unit.vision.worker_fixture import BROKEN, MODEL, ScriptedEngine, WorkerFixture, answer
from tests.waiting import eventually
from workers.vision import generation
from workers.vision.engine.base import EngineRequest, Event, Stage
from workers.vision.engine.echo import EchoEngine
from workers.vision.engine.errors import (
    ContextExceeded,
    DeadlineExceeded,
    DeviceLost,
    EngineClosed,
    NonFiniteLogits,
    OutOfMemory,
)
from workers.vision.engine.factory import BUNDLED
from workers.vision.images.decoder_pool import DecoderUnavailable
from workers.vision.json_mask import JsonMasks

Build = Callable[..., WorkerFixture]
LONG = " ".join(["word"] * 38)  #: what the echo engine says back, a word at a time


def attempts(outcome: str) -> float:
    return sample("tileq_vision_attempts_total", outcome=outcome)


def failed(worker: WorkerFixture, job: Job, code: str, *, retryable: bool, image: int | None = None) -> str:
    """The message of the error, all else as expected."""
    ended = worker.read(job)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert (ended.error.code, ended.error.retryable, ended.error.image) == (code, retryable, image)
    return ended.error.message


def queued_again(worker: WorkerFixture, job: Job, charged: int) -> None:
    now = worker.read(job)
    assert (now.state, now.charged, now.error) == (State.QUEUED, charged, None)


# --- permanent


def test_an_image_that_can_not_be_decoded_fails_the_job_at_once_and_is_named(worker: WorkerFixture) -> None:
    job = worker.submit("?", images=[b"fine", BROKEN, b"fine"], groups=(3,))
    worker.handle_hint()
    message = failed(worker, job, "undecodable_image", retryable=False, image=1)
    assert "image 1" in message
    assert worker.read(job).attempt == 1


def test_the_end_of_a_failed_job_is_stored_by_the_worker_itself(worker: WorkerFixture) -> None:
    job = worker.submit("?", images=[BROKEN], groups=(1,))
    worker.handle_hint()
    (group,) = newest_groups(worker.objects)
    end = open_line(read_group(worker.objects, group)[job.id], worker.read(job).seal)
    assert JobError.model_validate_json(end["error"]) == worker.read(job).error


def test_a_prompt_without_room_for_an_answer_fails_the_job(build: Build) -> None:
    worker = build(engine=ScriptedEngine(ContextExceeded("9 tokens; the context holds 8")))
    job = worker.submit()
    worker.handle_hint()
    assert failed(worker, job, "prompt_too_long", retryable=False) == "9 tokens; the context holds 8"


def test_logits_that_are_not_finite_fail_the_job(build: Build) -> None:
    worker = build(engine=ScriptedEngine(NonFiniteLogits("NaN in float16")))
    job = worker.submit()
    worker.handle_hint()
    assert failed(worker, job, "non_finite_logits", retryable=False) == "NaN in float16"


def test_an_engine_without_a_tokenizer_does_not_pass_text_for_json(worker: WorkerFixture) -> None:
    job = worker.submit(generation=Generation(json_schema={"type": "object"}))
    worker.handle_hint()
    failed(worker, job, "json_schema_failed", retryable=False)


def test_an_answer_that_left_its_schema_is_not_passed_for_json(build: Build) -> None:
    worker = build(engine=LeavesItsSchema())
    tokenizer = load_tokenizer(BUNDLED)
    masks = JsonMasks(tokenizer, tokenizer.size, tokenizer.token_id("<|im_end|>"))
    worker.worker = replace(worker.worker, served=replace(worker.worker.served, masks=masks))
    job = worker.submit(generation=Generation(json_schema={"type": "object"}))
    worker.handle_hint()
    assert "could not be held to the schema" in failed(worker, job, "json_schema_failed", retryable=False)


class LeavesItsSchema(ScriptedEngine):
    """Generates a token that the grammar does not allow."""

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        assert request.token_mask
        request.token_mask([5, 5, 5])
        yield answer("no JSON")


def test_an_unexpected_error_fails_the_job_without_telling_internals(build: Build) -> None:
    worker = build(engine=ScriptedEngine(Stage("prefill"), ZeroDivisionError("secret detail")))
    job = worker.submit()
    worker.handle_hint()
    assert "secret" not in failed(worker, job, "internal", retryable=True)


def test_an_unreadable_request_fails_the_job_and_not_the_worker(worker: WorkerFixture) -> None:
    broken, fine = worker.submit(request="{nonsense"), worker.submit()
    assert worker.handle_hint() == 2
    failed(worker, worker.read(broken), "internal", retryable=True)
    assert worker.state(fine) is State.SUCCEEDED


def test_events_that_stop_without_an_answer_fail_the_job(build: Build) -> None:
    worker = build(engine=ScriptedEngine(Stage("prefill")))
    job = worker.submit()
    worker.handle_hint()
    failed(worker, job, "internal", retryable=True)


# --- transient


def missing_image(worker: WorkerFixture) -> None:
    worker.objects.delete("jobs/")


def no_archive(worker: WorkerFixture) -> None:
    for key in list(worker.objects.keys("jobs/")):
        worker.objects.put(key, b"others", "image/png")


def other_bytes(worker: WorkerFixture) -> None:
    for key in list(worker.objects.keys("jobs/")):
        worker.objects.put(key, pack({**unpack(worker.objects.get(key)), "image-0": b"others"}), "")


def image_left_out(worker: WorkerFixture) -> None:
    for key in list(worker.objects.keys("jobs/")):
        worker.objects.put(key, pack({"request.json": b"{}"}), "")


def no_decoder(worker: WorkerFixture) -> None:
    worker.decoder.error = DecoderUnavailable("no process")


@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (missing_image, "storage_unavailable"),
        (no_archive, "storage_unavailable"),
        (other_bytes, "storage_unavailable"),
        (image_left_out, "storage_unavailable"),
        (no_decoder, "worker_lost"),
    ],
)
def test_a_transient_error_is_tried_again_and_fails_the_last_attempt(
    build: Build, trouble: Callable[[WorkerFixture], None], code: str
) -> None:
    worker = build(settings=Settings(retry_backoff=60))
    job = worker.submit("?", images=[b"image"], max_attempts=1)
    other = worker.submit("?", images=[b"image"], max_attempts=2)
    trouble(worker)
    worker.handle_hint()
    failed(worker, job, code, retryable=True, image=0 if trouble is no_decoder else None)
    queued_again(worker, other, charged=1)
    assert worker.read(other).not_before > time.time() + 20


def test_memory_that_other_jobs_hold_is_tried_again(build: Build) -> None:
    worker = build(engine=ScriptedEngine(OutOfMemory("CUDA")), settings=Settings(retry_backoff=60))
    job, last = worker.submit(), worker.submit(max_attempts=1)
    worker.handle_hint()
    queued_again(worker, job, charged=1)
    failed(worker, last, "out_of_memory", retryable=True)


@pytest.mark.parametrize(
    ("error", "code"),
    [(MemoryError(), "out_of_memory"), (OSError(errno.ENOSPC, "No space left on device"), "worker_lost")],
)
def test_a_shortage_of_the_machine_is_tried_again_and_never_internal(build: Build, error: Exception, code: str) -> None:
    worker = build(engine=ScriptedEngine(error), settings=Settings(retry_backoff=60))
    job, last = worker.submit(), worker.submit(max_attempts=1)
    worker.handle_hint()
    queued_again(worker, job, charged=1)
    assert "ran out of" in failed(worker, last, code, retryable=True)


@pytest.mark.parametrize("error", [EngineClosed(), DeviceLost("CUDA error: device-side assert triggered")])
def test_a_dead_engine_ends_the_process_and_leaves_the_job_to_its_lease(
    build: Build, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        pass

    def end() -> None:
        raise Ended

    monkeypatch.setattr(generation, "exit_now", end)
    worker = build(engine=ScriptedEngine(error))
    job = worker.submit()
    with pytest.raises(Ended):
        worker.handle_hint()
    assert worker.state(job) is State.RUNNING


# --- cancelled, late


@pytest.mark.parametrize("seconds_per_token", [0.1, 60])
def test_a_cancelled_job_leaves_the_engine(build: Build, seconds_per_token: float) -> None:
    worker = build(engine=EchoEngine(seconds_per_token))
    job = worker.submit(LONG)
    thread = worker.handle_hint_in_thread()
    worker.running(job)
    assert worker.store.run(transitions.cancel("acme", job.id)).value == "cancelling"
    eventually(lambda: worker.state(job) is State.CANCELLED)
    thread.join(10)
    assert worker.engine.stats().running == 0
    assert worker.read(job).result == ""


def test_a_job_cancelled_while_its_image_is_decoded_never_reaches_the_engine(build: Build) -> None:
    engine = ScriptedEngine()
    worker = build(engine=engine)
    worker.decoder.gate.clear()
    job = worker.submit("?", images=[b"image"])
    thread = worker.handle_hint_in_thread()
    worker.running(job, "tile")
    worker.store.run(transitions.cancel("acme", job.id))
    eventually(lambda: worker.state(job) is State.CANCELLED)
    thread.join(10)
    assert engine.asked == []


def test_a_job_whose_deadline_the_engine_can_not_meet_is_timed_out(build: Build) -> None:
    engine = ScriptedEngine(DeadlineExceeded())
    worker = build(engine=engine)
    job = worker.submit("?", run_within=30)
    worker.handle_hint()
    assert "run_within" in failed(worker, job, "timed_out", retryable=True)
    assert engine.asked[0].deadline == pytest.approx(time.monotonic() + 30, abs=20)


def test_a_job_past_run_within_stops_in_the_engine(build: Build) -> None:
    worker = build(engine=EchoEngine(3600))
    job = worker.submit(LONG, run_within=0.4)
    worker.handle_hint()
    assert "run_within" in failed(worker, job, "timed_out", retryable=True)
    assert worker.engine.stats().running == 0


def test_a_job_past_run_within_before_the_engine_never_reaches_it(build: Build) -> None:
    engine = ScriptedEngine()
    worker = build(engine=engine)
    worker.decoder.gate.clear()
    job = worker.submit("?", images=[b"image"], run_within=0.2)
    worker.handle_hint()
    failed(worker, job, "timed_out", retryable=True)
    assert engine.asked == []


def test_the_deadline_is_kept_while_the_store_is_away_and_the_engine_silent(build: Build) -> None:
    worker = build(engine=EchoEngine(60), settings=Settings(cancel_interval=0.05))
    job = worker.submit(LONG, run_within=0.4)
    worker.store.away = lambda script: script == "heartbeat"
    worker.handle_hint()
    failed(worker, job, "timed_out", retryable=True)


def test_the_deadline_is_kept_even_without_a_heartbeat(build: Build) -> None:
    class Slow(ScriptedEngine):
        def submit(self, request: EngineRequest) -> Iterator[Event]:
            (attempt,) = worker.jobs.all()
            for event in super().submit(request):
                eventually(lambda: time.monotonic() > attempt.deadline)
                yield event

    engine = Slow(Stage("prefill"), Stage("decode"))
    worker = build(engine=engine)
    worker.heartbeat.close()
    job = worker.submit(LONG, run_within=0.2)
    worker.handle_hint()
    failed(worker, job, "timed_out", retryable=True)
    assert engine.cancelled == [f"{job.id}/1"]


# --- lease lost


def to_another(worker: WorkerFixture, job: Job) -> Job:
    """Lose the lease of `job`, as a frozen worker does, and let another claim it."""
    worker.store.client.zadd(f"{worker.store.prefix}leases", {job.id: 0})
    worker.store.run(transitions.reap(0))
    claimed = eventually(lambda: worker.store.run(transitions.claim(MODEL, "worker-2", 60)).value)
    assert isinstance(claimed, Job)
    return claimed


def test_a_worker_that_lost_the_lease_stops_and_writes_nothing(build: Build) -> None:
    worker = build(engine=EchoEngine(0.1))
    job = worker.submit(LONG, former=True)
    before = attempts("lease_lost")
    thread = worker.handle_hint_in_thread()
    worker.running(job)
    second = to_another(worker, job)
    thread.join(2)
    assert not thread.is_alive()
    assert attempts("lease_lost") == before + 1
    now = worker.read(job)
    assert (now.state, now.attempt, now.owner, now.stage) == (State.RUNNING, 2, "worker-2", "")
    assert list(worker.objects.keys(result_key(job.id, 1))) == []
    assert worker.store.run(transitions.finish(job.id, second.attempt, State.SUCCEEDED, {})).value


def test_an_answer_that_comes_after_another_attempt_began_is_refused(build: Build) -> None:
    worker = build(settings=Settings(cancel_interval=60, retry_backoff=0))  # it does not learn of it
    worker.heartbeat.close()
    worker.decoder.gate.clear()
    job = worker.submit("?", images=[b"image"])
    before = attempts("lease_lost")
    thread = worker.handle_hint_in_thread()
    eventually(lambda: worker.state(job) is State.RUNNING)
    to_another(worker, job)
    worker.decoder.gate.set()
    thread.join(2)
    assert attempts("lease_lost") == before + 1
    now = worker.read(job)
    assert (now.state, now.attempt, now.result) == (State.RUNNING, 2, "")


def test_a_lease_that_could_not_be_renewed_counts_as_lost_once_it_has_expired(build: Build) -> None:
    worker = build(engine=EchoEngine(3600), settings=Settings(lease=0.6, cancel_interval=0.05))
    job = worker.submit(LONG)
    before = attempts("lease_lost")
    worker.store.away = lambda script: script == "heartbeat"
    thread = worker.handle_hint_in_thread()
    (attempt,) = eventually(worker.jobs.all)
    thread.join(10)
    assert not thread.is_alive()
    assert attempt.aborted_at >= attempt.lease_ends
    assert attempts("lease_lost") == before + 1
    assert worker.engine.stats().running == 0
    assert worker.state(job) is State.RUNNING  # the reconciler reaps it


# --- the store away at the end


def test_the_commit_is_repeated_until_the_store_takes_it(build: Build) -> None:
    worker = build()
    job = worker.submit()
    tries: list[str] = []

    def away(script: str) -> bool:
        if script == "finish":
            tries.append(script)
        return script == "finish" and len(tries) < 3

    worker.store.away = away
    worker.handle_hint()
    assert (worker.state(job), len(tries)) == (State.SUCCEEDED, 3)


def test_the_end_is_given_up_when_the_lease_has_expired(build: Build) -> None:
    worker = build(settings=Settings(lease=1.2, cancel_interval=0.1))
    job = worker.submit(former=True)
    before = attempts("abandoned")
    tries: list[str] = []

    def away(script: str) -> bool:
        tries.append(script)
        return script in ("finish", "heartbeat")

    worker.store.away = away
    worker.handle_hint()
    assert tries.count("finish") > 1
    assert attempts("abandoned") == before + 1
    worker.store.away = lambda script: False
    assert worker.state(job) is State.RUNNING
    assert worker.objects.get(result_key(job.id, 1))


def test_a_heartbeat_survives_an_unavailable_store(worker: WorkerFixture) -> None:
    worker.store.away = lambda script: True
    with pytest.raises(QueueUnavailable):
        worker.registration.renew(1)
    worker.heartbeat.tick()  # logs it and goes on
    assert worker.heartbeat.is_alive()


# --- two of the same job in one worker


def test_a_stale_attempt_and_its_successor_do_not_meet_in_the_engine(build: Build) -> None:
    worker = build(engine=EchoEngine(0.1), settings=Settings(cancel_interval=5, retry_backoff=0))
    job = worker.submit(LONG)
    first = worker.handle_hint_in_thread()
    (stale,) = eventually(worker.jobs.all)
    worker.store.client.zadd(f"{worker.store.prefix}leases", {job.id: 0})
    worker.store.run(transitions.reap(0))
    second = worker.handle_hint_in_thread()
    eventually(lambda: {attempt.key for attempt in worker.jobs.all()} == {f"{job.id}/1", f"{job.id}/2"})
    eventually(lambda: worker.engine.stats().running == 2)
    stale.abort("lease_lost")
    worker.engine.cancel(stale.key)
    first.join(10)
    second.join(10)
    assert (worker.state(job), worker.read(job).attempt) == (State.SUCCEEDED, 2)
