"""`python -m workers.vision` as a process: what it does when it is told to go, killed, frozen or misconfigured."""

import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
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
from shared.settings import Settings
from shared.storage import S3Storage, image_key, manifest_key, result_key, tokenizer_key, view_key
from shared.store import transitions
from shared.store.client import Store
from shared.store.stats import get_stats
from shared.tokenization.tokenizer import Tokenizer
from tests.encoded import encoded
from tests.waiting import eventually
from workers.reconciler.reconcile import Reconciler

pytestmark = pytest.mark.integration

LONG = " ".join(["word"] * 38)  #: what the echo engine says back, a word at a time
LEASE = 2.0


@dataclass
class Here:
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
        """Run a worker until the block ends; ready once the house sees it."""
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

    def submit(self, text: str, picture: bytes = b"", *, hint: bool = True, max_new_tokens: int = 512) -> Job:
        """Take a job in as intake does."""
        id = new_id("job")
        images: tuple[StoredImage, ...] = ()
        if picture:
            self.objects.put(image_key(id, 0), picture, "image/png")
            images = (
                StoredImage(
                    key=image_key(id, 0),
                    media_type="image/png",
                    bytes=len(picture),
                    width=900,
                    height=450,
                    sha256=hashlib.sha256(picture).hexdigest(),
                    max_tiles=6,
                    grid=(2, 1),
                    tiles=3,
                ),
            )
        message = Message(role="user", content=text)
        request = Request(
            model=DEMO_MODEL_ID,
            messages=(message,),
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
def here(valkey_url: str, prefix: str, s3: S3, tmp_path: Path) -> Iterator[Here]:
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
    yield Here(settings, env, store, objects, hints, reconciler, tmp_path)
    stop.set()
    thread.join()
    store.client.close()


def a_picture() -> bytes:
    return encoded(Image.new("RGB", (900, 450), "teal"))


def test_a_submitted_job_is_answered_with_its_tiles_text_and_view(here: Here) -> None:
    with here.worker():
        job = here.ended(here.submit("What is this? 这是什么？", a_picture()))
    assert job.state is State.SUCCEEDED, here.log()
    assert (job.attempt, job.tiles, job.owner) == (1, 3, "one")
    assert job.output == JobOutput(text="echo: What is this? 这是什么？", finish_reason="stop")
    entries: Any = here.store.client.xrange(stream_key(here.settings.redis_prefix, job.id))
    assert "".join(TextDelta.from_entry(fields).text for _, fields in entries) == job.output.text
    with Image.open(io.BytesIO(here.objects.get(view_key(job.id, 0)))) as view:
        assert view.format == "PNG"


def test_a_model_answers_and_its_tokenizer_is_handed_to_intake(here: Here) -> None:
    with here.worker(TILEQ_ENGINE="resident", TILEQ_DEVICE="cpu", TILEQ_DTYPE="float32"):
        job = here.ended(here.submit("What is this?", a_picture(), max_new_tokens=8), within=120)
    assert job.state is State.SUCCEEDED, here.log()
    assert job.usage is not None
    assert job.usage.completion_tokens <= 8
    assert job.usage.image_tokens == 3 * BY_ID[DEMO_MODEL_ID].tokens_per_tile
    assert job.timings is not None
    assert all(getattr(job.timings, stage) > 0 for stage in ("vision", "prefill", "decode", "first_token", "total"))
    tokenizer = Tokenizer.from_json(here.objects.get(tokenizer_key(DEMO_MODEL_ID)).decode())
    assert tokenizer.count("What is this?") > 0


def test_jobs_that_waited_for_a_worker_are_answered_though_their_hints_were_lost(here: Here) -> None:
    jobs = [here.submit(f"question {n}", hint=False) for n in range(20)]
    with here.worker():
        assert {here.ended(job).state for job in jobs} == {State.SUCCEEDED}


def test_a_picture_that_is_none_costs_its_job_and_no_other(here: Here) -> None:
    with here.worker():
        broken = here.ended(here.submit("?", b"\x89PNG\r\n\x1a\n and no more"))
        assert here.ended(here.submit("and now?", a_picture())).state is State.SUCCEEDED
    assert broken.error is not None
    assert (broken.state, broken.error.code, broken.error.image) == (State.FAILED, "undecodable_image", 0)


def test_a_running_job_is_cancelled_within_a_second(here: Here) -> None:
    with here.worker(TILEQ_ECHO_DELAY="0.5"):
        job = here.submit(LONG)
        here.generating(job)
        here.store.run(transitions.cancel("acme", job.id))
        eventually(lambda: here.read(job).state is State.CANCELLED, within=1)


def test_a_killed_workers_job_is_answered_by_another(here: Here) -> None:
    with here.worker(TILEQ_ECHO_DELAY="0.5") as process:
        job = here.submit(LONG)
        here.generating(job)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with here.worker("two"):
        answered = here.ended(job)
    assert (answered.state, answered.attempt, answered.owner) == (State.SUCCEEDED, 2, "two")
    assert answered.result == result_key(job.id, 2)


def test_the_late_word_of_a_frozen_worker_does_not_count(here: Here) -> None:
    with here.worker(TILEQ_ECHO_DELAY="0.1") as frozen:
        job = here.submit(LONG)
        here.generating(job)
        frozen.send_signal(signal.SIGSTOP)
        with here.worker("two"):
            answered = here.ended(job)
        assert (answered.state, answered.attempt, answered.owner) == (State.SUCCEEDED, 2, "two")
        frozen.send_signal(signal.SIGCONT)
        eventually(lambda: "outcome" in here.log() and '"lease_lost"' in here.log(), within=20)
        assert here.read(job) == answered
        assert here.ended(here.submit("still there?")).state is State.SUCCEEDED  # it works on


def test_told_to_go_it_lets_the_running_job_end_and_takes_no_other(here: Here) -> None:
    with here.worker(TILEQ_ECHO_DELAY="0.1", TILEQ_SLOTS="1") as process:
        first, second = here.submit(LONG), here.submit("next")
        here.generating(first)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, here.log()
        done = here.read(first)
        assert (done.state, done.attempt, done.released) == (State.SUCCEEDED, 1, 0)
        assert here.read(second).attempt == 0
        assert here.workers() == 0
    with here.worker("two"):
        assert here.ended(second).owner == "two"


def test_told_to_go_it_gives_back_what_does_not_end_in_time(here: Here) -> None:
    with here.worker(TILEQ_ECHO_DELAY="1", TILEQ_SHUTDOWN_GRACE="0.5") as process:
        job = here.submit(LONG)
        here.generating(job)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, here.log()
        given_back = here.read(job)
        assert (given_back.state, given_back.charged, given_back.released) == (State.QUEUED, 0, 1)
        assert here.unacked() == []
    with here.worker("two"):
        answered = here.ended(job)
    assert (answered.state, answered.attempt, answered.charged) == (State.SUCCEEDED, 2, 1)


def test_told_twice_it_goes_at_once(here: Here) -> None:
    with here.worker(TILEQ_ECHO_DELAY="1", TILEQ_SHUTDOWN_GRACE="60") as process:
        job = here.submit(LONG)
        here.generating(job)
        process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in here.log())
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, here.log()
    assert (here.read(job).state, here.read(job).charged) == (State.QUEUED, 0)


def test_an_idle_worker_goes_quickly_and_leaves_nothing_with_the_broker(here: Here) -> None:
    with here.worker() as process:
        here.ended(here.submit("?"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0, here.log()
    assert here.unacked() == []


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"TILEQ_ENGINE": "resident", "TILEQ_MODEL": "/nowhere/at/all"}, "/nowhere/at/all"),
        ({"TILEQ_LEASE": "soon"}, "TILEQ_LEASE"),
    ],
)
def test_a_worker_that_can_not_work_says_why_and_consumes_nothing(here: Here, env: dict[str, str], told: str) -> None:
    job = here.submit("waiting")
    with here.process(**env) as process:
        assert process.wait(60) not in (0, None)
    assert told in here.log()
    assert "Traceback" not in here.log()
    assert (here.read(job).state, here.read(job).attempt) == (State.QUEUED, 0)


def test_a_store_that_is_silent_for_a_while_costs_no_attempt(here: Here) -> None:
    with here.worker(TILEQ_ECHO_DELAY="0.05", TILEQ_LEASE="20", TILEQ_REDIS_TIMEOUT="0.5"):
        job = here.submit(LONG)
        here.generating(job)
        here.store.client.client_pause(4000)
        done = here.ended(job)
        assert (done.state, done.attempt) == (State.SUCCEEDED, 1)
        assert "heartbeat failed" in here.log()
        assert here.ended(here.submit("and then?"), within=60).state is State.SUCCEEDED


def test_text_that_nobody_takes_costs_no_job(here: Here) -> None:
    (nobody,) = free_ports(1)
    with here.worker(TILEQ_EVENTS_URL=f"redis://127.0.0.1:{nobody}/0"):
        job = here.ended(here.submit("?"))
    assert job.state is State.SUCCEEDED
    assert "deltas lost" in here.log()
