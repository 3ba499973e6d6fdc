"""Object storage for the event loop: small objects are sent on it, all else by threads, and each wait is bounded."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from services.intake.clients.object_puts import ObjectPuts
from services.intake.metrics import LOST_RESULTS
from services.intake.uploads import Upload
from shared.errors import ObjectMissing, ResultLost, StorageDown, StorageUnavailable
from shared.files import FileWriter, delete_file_objects
from shared.jobs import Job
from shared.records import JobOutput
from shared.request_archive import (
    MANIFEST,
    MAX_ARCHIVED_BYTES,
    MEDIA_TYPE,
    pack,
    read_image,
    read_images,
    read_manifest,
)
from shared.requests import Request, StoredImage
from shared.results import StoredResult
from shared.storage import ObjectStorage, ObjectWriter, archive_key, delete_job_objects

T = TypeVar("T")

STORAGE_THREADS = 32  #: operations at a time, each on a connection of its own
BASE_TIMEOUT_S = 5.0  #: of one operation
MIN_BYTES_PER_S = 4 << 20  #: a large object is allowed more time at this rate
GET_BYTES = 32 << 20  #: size that the time-out of a read allows for
RETRY_AFTER_S = 2.0
MAX_LOOP_BYTES = 512 << 10  #: of an object that is packed, hashed and sent on the event loop
log = structlog.get_logger(__name__)


class Storage:
    """The objects of `shared.storage`, awaited. Raises `StorageUnavailable`; `ObjectMissing` passes through."""

    def __init__(self, objects: ObjectStorage, puts: ObjectPuts) -> None:
        self._objects = objects
        self._puts = puts
        # A pool of its own: threads that hang on a dead server are at most this many, and block nothing else.
        self._pool = ThreadPoolExecutor(STORAGE_THREADS, thread_name_prefix="storage")

    async def put(self, key: str, data: bytes, media_type: str) -> None:
        """Store an object."""
        sent = self._store(key, lambda: data, media_type, on_loop=len(data) <= MAX_LOOP_BYTES)
        await self._in_time(sent, len(data))

    async def put_archive(self, job: str, manifest: bytes, images: Mapping[str, str | Upload]) -> None:
        """Store the archive of `job`: its manifest, and images by name, from uploads or as copies of stored ones."""

        def archive() -> bytes:
            return pack({MANIFEST: manifest, **dict(zip(images, self._contents([*images.values()]), strict=True))})

        copied = any(isinstance(image, str) for image in images.values())
        size = len(manifest) + sum(image.size for image in images.values() if isinstance(image, Upload))
        sent = self._store(archive_key(job), archive, MEDIA_TYPE, on_loop=not copied and size <= MAX_LOOP_BYTES)
        await self._in_time(sent, len(manifest) + 2 * MAX_ARCHIVED_BYTES)

    async def _store(self, key: str, make: Callable[[], bytes], media_type: str, *, on_loop: bool) -> None:
        """Store what `make` returns. What the event loop could not send a thread does, which tells what is wrong."""
        if on_loop:
            put = self._objects.signed_put(key, make(), media_type)
            if put is not None and await self._puts.send(put):
                return
        await self._in_thread(lambda: self._objects.put(key, make(), media_type))

    async def put_image(self, image: StoredImage, source: str | Upload) -> None:
        """Store an image as an object of its own, from an upload or as a copy of a stored one."""

        def send() -> None:
            if isinstance(source, str):
                [data] = self._contents([source])
                self._objects.put(image.key, data, image.media_type, sha256=image.sha256)
                return
            with source.lock:  # several jobs of a batch may store the same file, which has one position
                self._objects.put(image.key, source.file, image.media_type, source.size, source.sha256)

        await self.run(send, 2 * image.bytes)

    def _contents(self, sources: Sequence[str | Upload]) -> list[bytes]:
        """Return images in order; of those that are copied, each object is read once."""
        keys = [source for source in sources if isinstance(source, str)]
        copied = iter(read_images(lambda names: [self._objects.get(name) for name in names], keys))
        return [next(copied) if isinstance(source, str) else source.content() for source in sources]

    async def request(self, job: str) -> Request:
        """Return what `job` was asked."""
        return (await self.run(lambda: read_manifest(self._objects, job), GET_BYTES)).request

    async def image(self, job: str, n: int) -> bytes:
        """Return image `n` of `job` as it was sent."""
        return await self.run(lambda: read_image(self._objects, job, n), GET_BYTES)

    async def get(self, key: str) -> bytes:
        """Return an object."""
        return await self.run(lambda: self._objects.get(key), GET_BYTES)

    async def output(self, job: Job) -> JobOutput:
        """Return the output of a job that succeeded: the record's copy, or the result object's. Raises `ResultLost`."""
        if job.output is not None:
            return job.output
        if not job.result:
            raise ResultLost
        try:
            return StoredResult.from_bytes(await self.get(job.result)).output
        except (ObjectMissing, ValueError) as error:
            LOST_RESULTS.inc()
            log.error("result object missing or unreadable", job=job.id, key=job.result, error=str(error))
            raise ResultLost from error

    def file_writer(self, tenant: str, id: str = "") -> FileWriter:
        """Return what writes a new file; its methods block, and are called by `run`."""
        return FileWriter(self._objects, tenant=tenant, id=id)

    def writer(self, key: str) -> ObjectWriter:
        """Return what writes an object; its methods block, and are called by `run`."""
        return self._objects.writer(key, "application/octet-stream")

    async def sizes(self, prefix: str) -> list[int]:
        """Return the bytes of each object under `prefix`."""
        return await self.run(lambda: list(self._objects.sizes(prefix)), 0)

    async def presigned_put(self, key: str, expires_s: int) -> str:
        """Return a URL to which a client may PUT an object."""
        return await self.run(lambda: self._objects.presigned_put(key, expires_s), 0)

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return at most `length` bytes of an object from `start` on."""
        return await self.run(lambda: self._objects.get_range(key, start, length), length)

    async def delete_file(self, id: str) -> None:
        """Delete the objects of a file."""
        await self.run(lambda: delete_file_objects(self._objects, id), 0)

    async def delete(self, prefix: str) -> None:
        """Delete everything under `prefix`."""
        await self.run(lambda: self._objects.delete(prefix), 0)

    async def delete_job(self, id: str) -> None:
        """Delete the objects of a job."""
        await self.run(lambda: delete_job_objects(self._objects, id), 0)

    async def check(self) -> None:
        """Make the bucket if it is absent."""
        await self.run(self._objects.check, 0)

    async def discard(self, prefixes: Iterable[str]) -> None:
        """Delete what a refused request left; the reconciler sweeps what fails here."""
        for prefix in prefixes:
            try:
                await self.delete(prefix)
            except StorageUnavailable as error:
                log.warning("objects of a refused request left to the reconciler", prefix=prefix, error=error.detail)

    async def close(self) -> None:
        """Start no further operation."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        await self._puts.close()

    async def run(self, act: Callable[[], T], size: int) -> T:
        """Return what the blocking `act` returns, which moves about `size` bytes."""
        return await self._in_time(self._in_thread(act), size)

    def _in_thread(self, act: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._pool, act)

    async def _in_time(self, operation: Awaitable[T], size: int) -> T:
        timeout_s = BASE_TIMEOUT_S + size / MIN_BYTES_PER_S
        try:
            async with asyncio.timeout(timeout_s):
                return await operation
        except (StorageDown, TimeoutError) as error:
            log.warning("object storage operation failed", error=str(error) or f"no answer in {timeout_s:.0f} s")
            raise StorageUnavailable(retry_after=RETRY_AFTER_S) from error
