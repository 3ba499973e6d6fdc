"""The images that a job names by URL: fetched once and stored as the job's own, so that nothing fetches them again.

A retry, a follow-up and the API find the object. Fetching has threads of its own, one limit of time for all images of
an attempt, and a limit of jobs that wait, beyond which a job is postponed. So slow servers delay the jobs that name
them, and neither the tiling nor the places of others in the engine.
"""

import hashlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import structlog
from prometheus_client import Counter, Histogram

from shared.errors import ImageUrlsDisabled, Permanent, Transient
from shared.images import SNIFF_BYTES, sniff
from shared.outbound.connection import Deadline
from shared.records import JobImage
from shared.requests import StoredImage
from shared.settings.roles import VisionWorkerSettings
from workers.vision.attempt import Attempt
from workers.vision.images.abortable_map import abortable_map
from workers.vision.storage_outages import StorageOutages

log = structlog.get_logger(__name__)
FETCHES = Counter(
    "tileq_vision_image_url_fetches_total", "Images fetched by URL, by outcome: stored, or a code", ["outcome"]
)
FETCHED_BYTES = Counter("tileq_vision_image_url_bytes_total", "Bytes of images fetched by URL")
SECONDS = Histogram(
    "tileq_vision_image_url_duration_seconds",
    "Seconds of fetching one image by URL, storing it included",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60),
)


class ImageClient(Protocol):
    """Fetches one image."""

    def get(self, url: str, deadline: Deadline) -> bytes:
        """Return the image at `url`. Raises `Permanent` or `Transient`."""


class UrlImages:
    """Fetches and stores images. `image_url_concurrency` bounds what goes side by side, over all jobs."""

    def __init__(
        self, storage: StorageOutages, client: ImageClient, settings: VisionWorkerSettings, max_jobs: int
    ) -> None:
        """`max_jobs`: that wait for images at a time."""
        self._places = threading.BoundedSemaphore(max_jobs)
        self._storage = storage
        self._client = client
        self._enabled = settings.image_urls
        self._timeout_s = settings.image_url_timeout
        self._pool = ThreadPoolExecutor(settings.image_url_concurrency, thread_name_prefix="image-urls")

    def store(self, attempt: Attempt, images: Sequence[StoredImage]) -> list[StoredImage]:
        """Return `images` once all are stored; the record of the job tells what those by URL are.

        Raises `Permanent` and `Transient` naming the image, and `AttemptAborted` to postpone the attempt.
        """
        missing = [n for n, image in enumerate(images) if image.url and attempt.images[n].sha256 is None]
        if missing and not self._enabled:
            raise Permanent(ImageUrlsDisabled.code, "this worker fetches no images: TILEQ_IMAGE_URLS is false there")
        if missing:
            self._store_all(attempt, images, missing)
        return [image.as_stored(attempt.images[n]) if image.url else image for n, image in enumerate(images)]

    def _store_all(self, attempt: Attempt, images: Sequence[StoredImage], missing: Sequence[int]) -> None:
        if not self._places.acquire(blocking=False):
            attempt.abort("postpone")
            attempt.check()
        try:
            deadline = Deadline(min(attempt.deadline, time.monotonic() + self._timeout_s))
            abortable_map(self._pool, attempt, lambda n: self._store(attempt, n, images[n], deadline), missing)
        finally:
            self._places.release()

    def close(self) -> None:
        """End the threads; a fetch that has not begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _store(self, attempt: Attempt, n: int, image: StoredImage, deadline: Deadline) -> None:
        try:
            with SECONDS.time():
                seen = self._fetch(attempt, image, deadline)
        except (Permanent, Transient) as error:
            FETCHES.labels(error.code).inc()
            log.warning("image not fetched", image=n, code=error.code, error=error.detail)
            raise type(error)(error.code, f"image {n}: {error.detail}", image=n) from error
        FETCHES.labels("stored").inc()
        FETCHED_BYTES.inc(seen.bytes or 0)
        attempt.note_image(n, seen)

    def _fetch(self, attempt: Attempt, image: StoredImage, deadline: Deadline) -> JobImage:
        data = self._client.get(image.url, deadline)
        media_type, digest = sniff(data[:SNIFF_BYTES]), hashlib.sha256(data).hexdigest()
        attempt.check()  # an attempt that lost its lease must not replace what a newer one has stored
        self._storage.outlast(
            attempt, lambda: self._storage.objects.put(image.key, data, media_type or "", sha256=digest)
        )
        return JobImage(media_type=media_type, bytes=len(data), sha256=digest)
