"""`python -m workers.vision` as a process: what it does when it is stopped, killed, frozen or misconfigured."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image
from pydantic import SecretStr

from services.cli.local.ports import free_ports
from services.cli.local.seaweed import S3
from shared.broker import Hints, make_celery
from shared.conversation import Message
from shared.events import TextDelta, stream_key
from shared.ids import new_id
from shared.jobs import Job, State
from shared.models import BY_ID, DEMO_MODEL_ID
from shared.records import JobOutput
from shared.requests import Generation, Manifest, Request, StoredImage
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings
from shared.storage import image_key, manifest_key, result_key, tokenizer_key, view_key
from shared.store import transitions
from shared.store.client import Store
from shared.store.stats import get_stats
from shared.tokenization.tokenizer import Tokenizer
from tests.encoded import encoded
from tests.tcp_proxy import tcp_proxy
from tests.waiting import eventually
from workers.reconciler.reconcile import Reconciler
from workers.vision.model.packed_batch import PAGE_TOKENS

pytestmark = pytest.mark.integration

LONG = " ".join(["word"] * 38)  #: what the echo engine says back, a word at a time
LEASE = 2.0


@dataclass
class Backends:
    """Real servers, a reconciler in this process, and workers as processes of their own."""

    settings: Settings
    env: dict[str, str]
    store: Store
    objects: S3Storage
    hints: Hints
    reconciler: Reconciler
    logs: Path

    @contextmanager
    def worker(self, name: str = "one", **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker until the block ends; ready once it is registered."""
        with self.process(name, **env) as process:
            eventually(lambda: self.alive(process) and self.workers(), within=60)
            yield process

    @contextmanager
    def process(self, name: str = "one", **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """Start a worker; it is killed when the block ends."""
        with (self.logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "workers.vision"],
                env=os.environ | self.env | {"TILEQ_WORKER_NAME": name} | env,
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def alive(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.log()
        return True

    def log(self, name: str = "one") -> str:
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def workers(self) -> int:
        models = self.store.run(get_stats()).models
        return models[DEMO_MODEL_ID].workers if DEMO_MODEL_ID in models else 0

    def unacked(self) -> list[str]:
        """Messages that the broker has lent out."""
        return [str(key) for key in self.store.client.scan_iter(f"{self.settings.redis_prefix}mq:unacked*")]

    def submit(
        self,
        text: str,
        image: bytes = b"",
        *,
        hint: bool = True,
        max_new_tokens: int = 512,
        before: Sequence[Message] = (),
    ) -> Job:
        """Take a job in as intake does; `before` holds the rounds before this one."""
        id = new_id("job")
        images: tuple[StoredImage, ...] = ()
        if image:
            self.objects.put(image_key(id, 0), image, "image/png")
            images = (
                StoredImage(
                    key=image_key(id, 0),
                    media_type="image/png",
                    bytes=len(image),
                    width=900,
                    height=450,
                    sha256=hashlib.sha256(image).hexdigest(),
                    max_tiles=6,
                    grid=(2, 1),
                    tiles=3,
                ),
            )
        message = Message(role="user", content=text)
        request = Request(
            model=DEMO_MODEL_ID,
            messages=(*before, message),
            images=images,
            groups=(1,) * len(images),
            generation=Generation(max_new_tokens=max_new_tokens),
        )
        job = Job(id=id, tenant="acme", model=DEMO_MODEL_ID, start_within=60, run_within=60, retain=60)
        manifest = Manifest(record=job.to_hash(), request=request)
        self.objects.put(manifest_key(id), manifest.model_dump_json().encode(), "application/json")
        self.store.run(transitions.submit("acme", [job], max_queued=1000, grace=0))
        if hint:
            assert self.hints.job(DEMO_MODEL_ID, id)
        return job

    def read(self, job: Job) -> Job:
        found = self.store.run(transitions.read_job("", job.id))
        assert found is not None
        return found

    def ended(self, job: Job, within: float = 30) -> Job:
        eventually(lambda: self.read(job).state.terminal, within)
        return self.read(job)

    def generating(self, job: Job) -> Job:
        eventually(lambda: self.read(job).completion_tokens > 0, within=20)
        return self.read(job)


@pytest.fixture
def backends(valkey_url: str, prefix: str, s3: S3, tmp_path: Path) -> Iterator[Backends]:
    env = {
        "TILEQ_REDIS_URL": valkey_url,
        "TILEQ_REDIS_PREFIX": prefix,
        "TILEQ_S3_URL": s3.url,
        "TILEQ_S3_ACCESS_KEY": s3.access_key,
        "TILEQ_S3_SECRET_KEY": s3.secret_key,
        "TILEQ_S3_BUCKET": s3.bucket,
        "TILEQ_ENGINE": "echo",
        "TILEQ_LEASE": str(LEASE),
        "TILEQ_DECODERS": "1",
        "TILEQ_CANCEL_INTERVAL": "0.2",
    }
    settings = Settings(
        redis_url=valkey_url,
        redis_prefix=prefix,
        s3_url=s3.url,
        s3_access_key=s3.access_key,
        s3_secret_key=SecretStr(s3.secret_key),
        s3_bucket=s3.bucket,
        lease=LEASE,
        retry_backoff=0,
        redispatch=0.5,
        reconcile_period=0.2,
    )
    store = Store(redis.Redis.from_url(valkey_url, decode_responses=True), prefix)
    objects = S3Storage(settings)
    hints = Hints(make_celery(settings))
    reconciler = Reconciler(store, objects, hints, settings)
    stop = threading.Event()

    def reconcile() -> None:
        while not stop.wait(settings.reconcile_period):
            reconciler.reconcile()

    thread = threading.Thread(target=reconcile)
    thread.start()
    yield Backends(settings, env, store, objects, hints, reconciler, tmp_path)
    stop.set()
    thread.join()
    store.client.close()


def an_image() -> bytes:
    return encoded(Image.new("RGB", (900, 450), "teal"))


def test_a_submitted_job_is_answered_with_its_tiles_text_and_view(backends: Backends) -> None:
    with backends.worker(TILEQ_ECHO_DELAY="0.1"):
        job = backends.ended(backends.submit("What is this? 这是什么？", an_image()))
    assert job.state is State.SUCCEEDED, backends.log()
    assert (job.attempt, job.tiles, job.owner) == (1, 3, "one")
    assert job.output == JobOutput(text="echo: What is this? 这是什么？", finish_reason="stop")
    entries: Any = backends.store.client.xrange(stream_key(backends.settings.redis_prefix, job.id))
    assert "".join(TextDelta.from_entry(fields).text for _, fields in entries) == job.output.text
    with Image.open(io.BytesIO(backends.objects.get(view_key(job.id, 0)))) as view:
        assert view.format == "PNG"


def test_a_model_answers_and_its_tokenizer_is_handed_to_intake(backends: Backends) -> None:
    with backends.worker(TILEQ_ENGINE="resident", TILEQ_DEVICE="cpu", TILEQ_DTYPE="float32"):
        job = backends.ended(backends.submit("What is this?", an_image(), max_new_tokens=8), within=120)
    assert job.state is State.SUCCEEDED, backends.log()
    assert job.usage is not None
    assert job.usage.completion_tokens <= 8
    assert job.usage.image_tokens == 3 * BY_ID[DEMO_MODEL_ID].tokens_per_tile
    assert job.timings is not None
    assert all(getattr(job.timings, stage) > 0 for stage in ("vision", "prefill", "decode", "first_token", "total"))
    stages = ("queue", "fetch", "tile", "engine_wait", "vision", "prefill", "decode")
    assert sum(getattr(job.timings, stage) for stage in stages) == pytest.approx(job.timings.total, abs=0.001)
    tokenizer = Tokenizer.from_json(backends.objects.get(tokenizer_key(DEMO_MODEL_ID)).decode())
    assert tokenizer.count("What is this?") > 0


def test_a_second_round_and_another_question_about_the_image_are_cached(backends: Backends) -> None:
    question = "What is this?"
    with backends.worker(TILEQ_ENGINE="resident", TILEQ_DEVICE="cpu", TILEQ_DTYPE="float32"):
        first = backends.ended(backends.submit(question, an_image(), max_new_tokens=8), within=120)
        assert first.output is not None, backends.log()
        rounds = [Message(role="user", content=question), Message(role="assistant", content=first.output.text)]
        second = backends.ended(backends.submit("Which colour?", an_image(), max_new_tokens=8, before=rounds))
        other = backends.ended(backends.submit("How many?", an_image(), max_new_tokens=8))
    cached = [job.usage.cached_tokens for job in (first, second, other) if job.usage]
    image = 3 * BY_ID[DEMO_MODEL_ID].tokens_per_tile
    assert cached[0] == 0
    assert min(cached[1:]) > image - PAGE_TOKENS
    assert cached[1] > cached[2]  # the first question and its answer too


def test_jobs_that_waited_for_a_worker_are_answered_though_their_hints_were_lost(backends: Backends) -> None:
    jobs = [backends.submit(f"question {n}", hint=False) for n in range(20)]
    with backends.worker():
        assert {backends.ended(job).state for job in jobs} == {State.SUCCEEDED}


def test_an_image_that_can_not_be_decoded_costs_its_job_and_no_other(backends: Backends) -> None:
    with backends.worker():
        broken = backends.ended(backends.submit("?", b"\x89PNG\r\n\x1a\n and no more"))
        assert backends.ended(backends.submit("and now?", an_image())).state is State.SUCCEEDED
    assert broken.error is not None
    assert (broken.state, broken.error.code, broken.error.image) == (State.FAILED, "undecodable_image", 0)


def test_a_running_job_is_cancelled_within_a_second(backends: Backends) -> None:
    with backends.worker(TILEQ_ECHO_DELAY="0.5"):
        job = backends.submit(LONG)
        backends.generating(job)
        backends.store.run(transitions.cancel("acme", job.id))
        eventually(lambda: backends.read(job).state is State.CANCELLED, within=1)


def test_a_killed_workers_job_is_answered_by_another(backends: Backends) -> None:
    with backends.worker(TILEQ_ECHO_DELAY="0.5") as process:
        job = backends.submit(LONG)
        backends.generating(job)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with backends.worker("two"):
        answered = backends.ended(job)
    assert (answered.state, answered.attempt, answered.owner) == (State.SUCCEEDED, 2, "two")
    assert answered.result == result_key(job.id, 2)


def test_a_frozen_worker_commits_nothing_once_another_has_begun(backends: Backends) -> None:
    with backends.worker(TILEQ_ECHO_DELAY="0.1") as frozen:
        job = backends.submit(LONG)
        backends.generating(job)
        frozen.send_signal(signal.SIGSTOP)
        with backends.worker("two"):
            answered = backends.ended(job)
        assert (answered.state, answered.attempt, answered.owner) == (State.SUCCEEDED, 2, "two")
        frozen.send_signal(signal.SIGCONT)
        eventually(lambda: "outcome" in backends.log() and '"lease_lost"' in backends.log(), within=20)
        assert backends.read(job) == answered
        assert backends.ended(backends.submit("still there?")).state is State.SUCCEEDED  # it works on


def test_on_sigterm_the_running_job_ends_and_no_other_is_claimed(backends: Backends) -> None:
    with backends.worker(TILEQ_ECHO_DELAY="0.1", TILEQ_SLOTS="1") as process:
        first, second = backends.submit(LONG), backends.submit("next")
        backends.generating(first)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, backends.log()
        done = backends.read(first)
        assert (done.state, done.attempt, done.released) == (State.SUCCEEDED, 1, 0)
        assert backends.read(second).attempt == 0
        assert backends.workers() == 0
    with backends.worker("two"):
        assert backends.ended(second).owner == "two"


def test_on_sigterm_a_job_that_does_not_end_in_time_is_released(backends: Backends) -> None:
    with backends.worker(TILEQ_ECHO_DELAY="1", TILEQ_SHUTDOWN_GRACE="0.5") as process:
        job = backends.submit(LONG)
        backends.generating(job)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, backends.log()
        given_back = backends.read(job)
        assert (given_back.state, given_back.charged, given_back.released) == (State.QUEUED, 0, 1)
        assert backends.unacked() == []
    with backends.worker("two"):
        answered = backends.ended(job)
    assert (answered.state, answered.attempt, answered.charged) == (State.SUCCEEDED, 2, 1)


def test_a_second_sigterm_ends_the_grace_period(backends: Backends) -> None:
    with backends.worker(TILEQ_ECHO_DELAY="1", TILEQ_SHUTDOWN_GRACE="60") as process:
        job = backends.submit(LONG)
        backends.generating(job)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in backends.log())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, backends.log()
    assert (backends.read(job).state, backends.read(job).charged) == (State.QUEUED, 0)


def test_an_idle_worker_ends_and_leaves_no_message_unacknowledged(backends: Backends) -> None:
    with backends.worker() as process:
        backends.ended(backends.submit("?"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, backends.log()
    assert backends.unacked() == []


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"TILEQ_ENGINE": "resident", "TILEQ_MODEL": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"TILEQ_LEASE": "soon"}, "TILEQ_LEASE"),
    ],
)
def test_a_worker_that_can_not_start_says_why_and_consumes_nothing(
    backends: Backends, env: dict[str, str], reason: str
) -> None:
    job = backends.submit("waiting")
    with backends.process(**env) as process:
        assert process.wait(60) not in (0, None)
    assert reason in backends.log()
    assert "Traceback" not in backends.log()
    assert (backends.read(job).state, backends.read(job).attempt) == (State.QUEUED, 0)


def test_a_store_that_does_not_answer_for_a_while_costs_no_attempt(backends: Backends) -> None:
    with backends.worker(TILEQ_ECHO_DELAY="0.05", TILEQ_LEASE="20", TILEQ_REDIS_TIMEOUT="0.5"):
        job = backends.submit(LONG)
        backends.generating(job)
        backends.store.client.client_pause(4000)
        done = backends.ended(job)
        assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
        assert "heartbeat failed" in backends.log()
        assert backends.ended(backends.submit("and then?"), within=60).state is State.SUCCEEDED


def test_a_worker_that_lost_its_network_with_every_slot_busy_takes_jobs_again(
    backends: Backends, valkey_url: str
) -> None:
    (unused,) = free_ports(1)
    server = int(valkey_url.rpartition(":")[2].partition("/")[0])
    with (
        tcp_proxy(server) as proxy,
        backends.worker(TILEQ_REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0", TILEQ_SLOTS="1", TILEQ_ECHO_DELAY="0.1"),
    ):
        job = backends.generating(backends.submit(LONG))
        proxy.target = unused
        proxy.cut()
        eventually(lambda: "message not acknowledged" in backends.log(), within=20)
        proxy.target = server
        assert backends.ended(job).state is State.SUCCEEDED


def test_an_unavailable_events_redis_costs_no_job(backends: Backends) -> None:
    (unused,) = free_ports(1)
    with backends.worker(TILEQ_EVENTS_URL=f"redis://127.0.0.1:{unused}/0", TILEQ_ECHO_DELAY="0.1"):
        job = backends.ended(backends.submit("one two three"))
    assert job.state is State.SUCCEEDED
    assert "deltas lost" in backends.log()
