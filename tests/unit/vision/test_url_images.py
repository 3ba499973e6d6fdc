"""Images by URL in the worker: fetched once, stored as the job's own, and told in its record."""

import hashlib
import threading
from collections.abc import Callable

import pytest
import structlog.testing

from shared.errors import Permanent, Transient
from shared.images import sniff
from shared.jobs import Job, State
from shared.outbound.connection import Deadline
from shared.records import JobImage
from shared.settings.roles import Settings
from shared.storage import image_key
from shared.store import transitions
from tests.metrics import sample
from tests.unit.vision.test_outcomes import failed
from tests.unit.vision.worker_fixture import WorkerFixture
from tests.waiting import eventually
from workers.vision.images.decode import DecodeError

Build = Callable[..., WorkerFixture]
PNG, JPEG = b"\x89PNG\r\n\x1a\npixels", b"\xff\xd8\xffpixels"
URL, OTHER = "https://images.example/a.png?signature=s3cret", "https://images.example/b.jpg"


@pytest.fixture
def worker(build: Build) -> WorkerFixture:
    worker = build(settings=Settings(image_urls=True, retry_backoff=0))
    worker.web.pages = {URL: PNG, OTHER: JPEG}
    return worker


def stored(data: bytes) -> JobImage:
    """What the record tells of an image that the worker fetched and tiled."""
    found = JobImage(media_type=sniff(data), bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    return found.model_copy(update={"width": 64, "height": 32, "grid": [2, 1], "tiles": 3})


def fetches(outcome: str) -> float:
    return sample("tileq_vision_image_url_fetches_total", outcome=outcome)


def used_bytes(worker: WorkerFixture) -> int:
    keys = worker.store.client.keys(f"{worker.store.prefix}usage:acme:*")
    return sum(int(worker.store.client.hget(key, "bytes") or 0) for key in keys)


@pytest.mark.parametrize("inline", [True, False])
def test_images_by_url_are_stored_beside_those_that_were_sent_and_told_in_the_record(
    worker: WorkerFixture, inline: bool
) -> None:
    before = fetches("stored")
    job = worker.submit("?", images=[b"sent"], urls=[URL, OTHER], inline=inline)
    assert worker.read(job).images[1:] == [JobImage(), JobImage()]
    worker.handle_hint()
    ended = worker.read(job)
    assert (ended.state, ended.tiles) == (State.SUCCEEDED, 9)
    assert ended.images[1:] == [stored(PNG), stored(JPEG)]
    assert [worker.objects.get(image_key(job.id, n)) for n in (1, 2)] == [PNG, JPEG]
    assert sorted(worker.web.asked) == [URL, OTHER]
    assert fetches("stored") == before + 2


def lose_while_tiling(worker: WorkerFixture, job: Job) -> None:
    """Process a job whose first attempt is lost once its images are stored, as that of a dead worker is."""
    worker.decoder.gate.clear()
    thread = worker.handle_hint_in_thread()
    worker.running(job, "tile")
    worker.store.client.zadd(f"{worker.store.prefix}leases", {job.id: 0})
    worker.store.run(transitions.reap(0))
    worker.decoder.gate.set()
    thread.join(10)
    assert (worker.state(job), worker.read(job).attempt) == (State.SUCCEEDED, 2)


def test_after_a_lost_worker_the_stored_images_are_taken_and_nothing_is_fetched_again(worker: WorkerFixture) -> None:
    job = worker.submit("?", urls=[URL, OTHER])
    lose_while_tiling(worker, job)
    assert sorted(worker.web.asked) == [URL, OTHER]
    assert worker.read(job).images == [stored(PNG), stored(JPEG)]


def test_fetched_bytes_count_against_the_tenant_once_however_many_attempts(worker: WorkerFixture) -> None:
    job = worker.submit("?", images=[b"sent"], urls=[URL, OTHER])
    assert used_bytes(worker) == len(b"sent")
    lose_while_tiling(worker, job)
    assert used_bytes(worker) == len(b"sent" + PNG + JPEG)


def test_what_was_fetched_before_a_job_failed_counts_too_and_stands_in_its_record(worker: WorkerFixture) -> None:
    worker.decoder.error = DecodeError("it is broken")
    job = worker.submit("?", urls=[URL])
    worker.handle_hint()
    failed(worker, job, "undecodable_image", retryable=False, image=0)
    assert worker.read(job).images == [
        stored(PNG).model_copy(update=dict.fromkeys(("width", "height", "grid", "tiles")))
    ]
    assert used_bytes(worker) == len(PNG)


def test_an_attempt_that_lost_its_lease_while_it_fetched_stores_nothing(worker: WorkerFixture) -> None:
    job, arrived = worker.submit("?", urls=[URL]), threading.Event()

    def get(url: str, deadline: Deadline) -> bytes:
        arrived.set()
        eventually(lambda: worker.jobs.all()[0].abort_reason)
        return PNG

    worker.web.get = get  # type: ignore[method-assign]
    thread = worker.handle_hint_in_thread()
    assert arrived.wait(10)
    worker.jobs.all()[0].abort("lease_lost")
    worker.url_images.close()
    thread.join(10)
    assert list(worker.objects.keys(image_key(job.id, 0))) == []


def test_a_fetch_that_may_succeed_later_is_tried_again(worker: WorkerFixture) -> None:
    errors = iter([Transient("image_fetch_failed", "images.example answered 503")])
    serve = worker.web.get

    def get(url: str, deadline: Deadline) -> bytes:
        for error in errors:
            raise error
        return serve(url, deadline)

    worker.web.get = get  # type: ignore[method-assign]
    before = fetches("image_fetch_failed")
    job = worker.submit("?", urls=[URL])
    worker.handle_hint()
    assert (worker.state(job), worker.read(job).attempt) == (State.SUCCEEDED, 2)
    assert fetches("image_fetch_failed") == before + 1


def test_a_fetch_that_never_succeeds_fails_the_job_at_its_last_attempt(worker: WorkerFixture) -> None:
    worker.web.pages[OTHER] = Transient("image_fetch_failed", "images.example answered 503")
    job = worker.submit("?", images=[b"sent"], urls=[URL, OTHER], record={"max_attempts": 2})
    worker.handle_hint()
    message = failed(worker, job, "image_fetch_failed", retryable=True, image=2)
    assert message == "image 2: images.example answered 503"
    assert worker.web.asked.count(OTHER) == 2


@pytest.mark.parametrize("code", ["image_url_refused", "image_fetch_failed", "image_too_large"])
def test_a_fetch_that_can_never_succeed_fails_the_job_at_once(worker: WorkerFixture, code: str) -> None:
    worker.web.pages[URL] = Permanent(code, "images.example answered 404")
    job = worker.submit("?", urls=[URL])
    worker.handle_hint()
    assert failed(worker, job, code, retryable=False, image=0) == "image 0: images.example answered 404"
    assert worker.read(job).attempt == 1


def test_an_image_waits_for_the_storage_to_take_it_and_is_not_fetched_again(worker: WorkerFixture) -> None:
    worker.objects.refused = "image-0"
    job = worker.submit("?", urls=[URL], record={"max_attempts": 1})
    before = sample("tileq_vision_storage_failures_total")
    thread = worker.handle_hint_in_thread()
    eventually(lambda: sample("tileq_vision_storage_failures_total") > before)
    worker.objects.refused = "nothing"
    thread.join(10)
    assert worker.state(job) is State.SUCCEEDED
    assert worker.web.asked == [URL]


def test_a_worker_whose_setting_is_off_fetches_nothing(build: Build) -> None:
    worker = build()
    job = worker.submit("?", urls=[URL])
    worker.handle_hint()
    failed(worker, job, "image_urls_disabled", retryable=False)
    assert worker.web.asked == []


def test_all_images_of_an_attempt_have_one_limit_of_time_and_wait_for_a_thread_within_it(build: Build) -> None:
    worker = build(settings=Settings(image_urls=True, image_url_timeout=0.2, image_url_concurrency=1))
    left = list[float]()

    def get(url: str, deadline: Deadline) -> bytes:
        try:
            left.append(deadline.left())
            threading.Event().wait(0.3)  # the second one gets its thread after that
        except TimeoutError:
            raise Transient("image_fetch_failed", "not in time") from None
        return PNG

    worker.web.get = get  # type: ignore[method-assign]
    job = worker.submit("?", urls=[URL, OTHER], record={"max_attempts": 1})
    worker.handle_hint()
    failed(worker, job, "image_fetch_failed", retryable=True, image=1)
    assert len(left) == 1
    assert left[0] <= 0.2


def test_a_job_is_cancelled_while_it_waits_for_a_slow_server(worker: WorkerFixture) -> None:
    gone = threading.Event()
    worker.web.get = lambda url, deadline: PNG if gone.wait(10) else b""  # type: ignore[method-assign]
    job = worker.submit("?", urls=[URL])
    thread = worker.handle_hint_in_thread()
    worker.running(job, "fetch")
    worker.store.run(transitions.cancel("acme", job.id))
    thread.join(5)
    assert not thread.is_alive()
    assert worker.state(job) is State.CANCELLED
    gone.set()


def test_slow_servers_leave_the_threads_of_other_jobs_images_alone(build: Build) -> None:
    worker = build(settings=Settings(image_urls=True, image_url_concurrency=1))
    gone = threading.Event()
    worker.web.get = lambda url, deadline: PNG if gone.wait(10) else b""  # type: ignore[method-assign]
    slow = worker.submit("?", urls=[URL, OTHER])
    thread = worker.handle_hint_in_thread()
    worker.running(slow, "fetch")
    other = worker.submit("?", images=[b"sent"] * 8)
    worker.handle_hint()
    assert worker.state(other) is State.SUCCEEDED
    gone.set()
    thread.join(10)


def test_a_job_beyond_those_that_may_wait_is_postponed_without_a_charge_and_others_go_on(worker: WorkerFixture) -> None:
    gone = threading.Event()
    worker.web.get = lambda url, deadline: PNG if gone.wait(10) else b""  # type: ignore[method-assign]
    slow = worker.submit("?", urls=[URL])
    thread = worker.handle_hint_in_thread()
    worker.running(slow, "fetch")
    later, other = worker.submit("?", urls=[OTHER]), worker.submit("?")
    worker.handle_hint()
    assert worker.state(other) is State.SUCCEEDED
    put_off = worker.read(later)
    assert (put_off.state, put_off.attempt, put_off.charged) == (State.QUEUED, 1, 0)
    assert put_off.not_before > put_off.claimed + 1
    gone.set()
    thread.join(10)
    assert worker.state(slow) is State.SUCCEEDED


def test_neither_log_nor_record_shows_a_query(worker: WorkerFixture) -> None:
    worker.web.pages[OTHER] = Permanent("image_fetch_failed", "images.example answered 404")
    with structlog.testing.capture_logs() as logs:
        jobs = [worker.submit("?", urls=[URL]), worker.submit("?", urls=[URL, OTHER])]
        worker.handle_hint()
    assert logs
    assert "s3cret" not in repr(logs)
    for job in jobs:
        assert "s3cret" not in repr(worker.store.client.hgetall(f"{worker.store.prefix}job:{job.id}"))
