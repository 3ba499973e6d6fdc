"""Object storage: images, manifests and results, on any S3 server or in memory.

jobs/{id}/request.tar          everything needed to recreate the job, written before the record: see request_archive.py
jobs/{id}/image-{n}            an image as it was sent, where it is too large for the archive
jobs/{id}/view-{n}.png         the tiles that the model sees of it, put there by workers
jobs/{id}/result-{attempt}.json  a large output, written before finish; the record points at the winner
ended/{hour}/{id}.jsonl        how jobs ended, see shared/ended.py
models/{id}/tokenizer.json     for exact prompt counts in intake, put there by workers
files/{id}/…                   uploads of clients and outputs of batches, see shared/files.py
webhook_endpoints/{id}.json    a copy of the record of a webhook endpoint, its secrets as stored
health/probe                   what readiness writes, over and over
"""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import BinaryIO, Protocol, TypeVar

import urllib3
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error
from minio.helpers import DictType

from shared.connections.s3_client import DIGEST_HEADER, MAX_SINGLE_PUT_BYTES, SignedPut, s3_client
from shared.errors import ObjectMissing, StorageDown
from shared.object_writers import MemoryWriter, S3Writer
from shared.settings.storage import StorageSettings

T = TypeVar("T")

BATCHES_PREFIX = "batches/"  #: of the manifests of batches
ENDPOINTS_PREFIX = "webhook_endpoints/"  #: of the copies of webhook endpoints
ENDED_PREFIX = "ended/"  #: of the groups of ends
PAGE_KEYS = 1000  #: keys of one LIST request, the most that S3 returns

PROBE_KEY = "health/probe"

#: What an S3 server answers that repeating would not change.
_FINAL = {"NoSuchKey", "NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def image_key(job: str, n: int) -> str:
    """Return the key of image `n` of `job`."""
    return f"jobs/{job}/image-{n}"


def view_key(job: str, n: int) -> str:
    """Return the key of the picture of what the model sees of image `n` of `job`."""
    return f"jobs/{job}/view-{n}.png"


def archive_key(job: str) -> str:
    """Return the key of the manifest of `job` and its small images."""
    return f"jobs/{job}/request.tar"


def manifest_key(job: str) -> str:
    """Return the key of the manifest of a `job` that a former release accepted."""
    return f"jobs/{job}/request.json"


def result_key(job: str, attempt: int) -> str:
    """Return the key of what `attempt` of `job` found; a zombie's lies beside the winner's, never over it."""
    return f"jobs/{job}/result-{attempt}.json"


def ended_key(job: str) -> str:
    """Return the key of the marker that a former release wrote when `job` ended without a result."""
    return f"jobs/{job}/ended.json"


def endpoint_key(endpoint: str) -> str:
    """Return the key of the copy of a webhook endpoint."""
    return f"{ENDPOINTS_PREFIX}{endpoint}.json"


def batch_key(batch: str) -> str:
    """Return the key of the manifest of `batch`."""
    return f"{BATCHES_PREFIX}{batch}.json"


def batch_id(key: str) -> str:
    """Return the batch whose manifest lies at `key`."""
    return key.removeprefix(BATCHES_PREFIX).removesuffix(".json")


def tokenizer_key(model: str) -> str:
    """Return the key of the tokenizer of `model`."""
    return f"models/{model}/tokenizer.json"


def job_prefix(job: str) -> str:
    """Return what all keys of `job` begin with."""
    return f"jobs/{job}/"


class ObjectStorage(Protocol):
    """What tileq needs of an object storage. Safe to share between threads."""

    def put(self, key: str, data: bytes | BinaryIO, media_type: str, size: int | None = None, sha256: str = "") -> None:
        """Store `data` whole, or raise `StorageDown`; `size` is needed for a stream.

        `sha256` (hex digits), where it is known, spares the client hashing `data` in order to sign it. AWS S3 refuses
        data with another digest; SeaweedFS (4.48) does not compare them.
        """

    def signed_put(self, key: str, data: bytes, media_type: str) -> SignedPut | None:
        """Return the request that stores `data`, for a caller that sends it itself; None where only `put` can."""

    def get(self, key: str, size: int | None = None) -> bytes:
        """Return an object, or its first `size` bytes; raises `ObjectMissing` or `StorageDown`."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return at most `length` bytes of an object from `start` on, none behind its end; raises as `get` does."""

    def writer(self, key: str, media_type: str) -> "ObjectWriter":
        """Return what stores an object that comes piece by piece and of which no size is known."""

    def presigned_put(self, key: str, expires_s: int) -> str:
        """Return a URL at the server's public address to which anyone may PUT an object for `expires_s`."""

    def keys(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with `prefix`, in order."""

    def sizes(self, prefix: str) -> Iterator[int]:
        """Yield the bytes of each object whose key begins with `prefix`, in the order of `keys`."""

    def delete(self, prefix: str) -> int:
        """Delete everything under `prefix`; return how many objects went."""

    def check(self) -> None:
        """Store a small object, as a submission does, and make the bucket if it is absent. Raises `StorageDown`."""


class ObjectWriter(Protocol):
    """Stores one object piece by piece. It is there, whole, once `close` has returned; one thread at a time uses it.

    Every method raises `StorageDown`.
    """

    def write(self, data: bytes) -> None:
        """Append `data`."""

    def close(self) -> None:
        """Store the object."""

    def abort(self) -> None:
        """Drop what was written; nothing is raised."""


def delete_job_objects(objects: ObjectStorage, job: str) -> None:
    """Delete the objects of `job`, the manifest first: without it, `--recover` never restores a job deleted in part."""
    objects.delete(f"{job_prefix(job)}request.")  # in an archive or alone
    objects.delete(job_prefix(job))


class S3Storage:
    """ObjectStorage in one bucket of an S3 server, through the `minio` client."""

    def __init__(self, settings: StorageSettings, connections: int = 4) -> None:
        """`connections` are kept open: as many as threads that use this at a time."""
        self.bucket = settings.s3_bucket
        self._prefix = settings.s3_prefix
        self._region = settings.s3_endpoint.region
        self.client = s3_client(settings, settings.s3_endpoint, connections)
        public = settings.s3_public_endpoint
        self._public = s3_client(settings, public, connections=1) if public else None

    def put(self, key: str, data: bytes | BinaryIO, media_type: str, size: int | None = None, sha256: str = "") -> None:
        """See `ObjectStorage.put`."""
        stream: BinaryIO = io.BytesIO(data) if isinstance(data, bytes) else data
        length = len(data) if isinstance(data, bytes) else size
        if length is None:
            raise ValueError("a stream needs its size")

        digest: DictType | None = {DIGEST_HEADER: sha256} if sha256 and length <= MAX_SINGLE_PUT_BYTES else None

        def send() -> None:
            stream.seek(0)
            name = self._prefix + key
            self.client.put_object(self.bucket, name, stream, length, content_type=media_type, metadata=digest)

        self._try(f"PUT {key}", send)

    def signed_put(self, key: str, data: bytes, media_type: str) -> SignedPut | None:
        """See `ObjectStorage.signed_put`."""
        return self.client.signed_put(self.bucket, self._prefix + key, data, media_type)

    def get(self, key: str, size: int | None = None) -> bytes:
        """See `ObjectStorage.get`."""

        def fetch() -> bytes:
            answer = self.client.get_object(self.bucket, self._prefix + key, length=size or 0)  # 0: all
            try:
                data = answer.read()
                promised = answer.headers.get("Content-Length")
                if promised is not None and len(data) != int(promised):
                    raise InvalidResponseError(answer.status, "", f"{len(data)} of {promised} bytes")
                return data
            finally:
                answer.close()
                answer.release_conn()

        return self._try(f"GET {key}", fetch)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStorage.get_range`."""

        def fetch() -> bytes:
            try:
                answer = self.client.get_object(self.bucket, self._prefix + key, start, length)
            except S3Error as error:
                if error.code == "InvalidRange":
                    return b""
                raise
            try:
                return answer.read()
            finally:
                answer.close()
                answer.release_conn()

        return self._try(f"GET {key}", fetch)

    def writer(self, key: str, media_type: str) -> ObjectWriter:
        """See `ObjectStorage.writer`."""
        put = partial(self.put, key, media_type=media_type)
        return S3Writer(self.client, self.bucket, self._prefix + key, media_type, put, partial(self._try, f"PUT {key}"))

    def presigned_put(self, key: str, expires_s: int) -> str:
        """See `ObjectStorage.presigned_put`. Nothing is sent: the region is known. Raises `StorageDown`."""
        if self._public is None:
            raise StorageDown("TILEQ_S3_PUBLIC_URL names no address for presigned URLs")
        public, name = self._public, self._prefix + key
        return self._try(
            f"presign {key}", lambda: public.presigned_put_object(self.bucket, name, timedelta(seconds=expires_s))
        )

    def keys(self, prefix: str) -> Iterator[str]:
        """See `ObjectStorage.keys`."""
        return (key for key, _ in self._listed(prefix))

    def sizes(self, prefix: str) -> Iterator[int]:
        """See `ObjectStorage.sizes`."""
        return (size for _, size in self._listed(prefix))

    def _listed(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, bytes), listed in pages, so that a failed request is repeated from the last key."""
        last: str | None = None
        while True:
            page = self._try(f"LIST {prefix}", partial(self._page, prefix, last))
            yield from page
            if len(page) < PAGE_KEYS:
                return
            last, _ = page[-1]

    def _page(self, prefix: str, after: str | None) -> list[tuple[str, int]]:
        start = None if after is None else self._prefix + after
        entries = self.client.list_objects(self.bucket, self._prefix + prefix, recursive=True, start_after=start)
        named = [(entry.object_name, entry.size or 0) for entry in islice(entries, PAGE_KEYS) if entry.object_name]
        return [(name.removeprefix(self._prefix), size) for name, size in named]

    def delete(self, prefix: str) -> int:
        """See `ObjectStorage.delete`."""
        names = self._try(f"LIST {prefix}", lambda: list(self.keys(prefix)))
        if names:
            batch = [DeleteObject(self._prefix + name) for name in names]
            errors = self._try(f"DELETE {prefix}", lambda: list(self.client.remove_objects(self.bucket, batch)))
            if errors:
                raise StorageDown(f"the object storage did not delete {errors[0].name}: {errors[0].message}")
        return len(names)

    def check(self) -> None:
        """See `ObjectStorage.check`. A HEAD of the bucket needs a permission that nothing else here does."""

        def put() -> None:
            name = self._prefix + PROBE_KEY
            self.client.put_object(self.bucket, name, io.BytesIO(b"probe"), 5, content_type="text/plain")

        def probe() -> None:
            try:
                put()
            except S3Error as error:
                if error.code != "NoSuchBucket":
                    raise
                self._make_bucket()
                put()

        self._try(f"PUT {PROBE_KEY} in bucket {self.bucket}", probe)

    def _make_bucket(self) -> None:
        try:
            self.client.make_bucket(self.bucket, self._region)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):  # another process was first
                raise StorageDown(
                    f"the object storage has no bucket {self.bucket} and did not make it: {error.code}: {error.message}"
                ) from error

    def _try(self, what: str, act: Callable[[], T]) -> T:
        """Do it, once more if the trouble may pass; every S3 call here may be repeated."""
        for last in (False, True):
            try:
                return act()
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchObject"):
                    raise ObjectMissing(f"the object storage has no {what.partition(' ')[2]}") from error
                if last or error.code in _FINAL:
                    told = f"{error.code}: {error.message}"
                    raise StorageDown(f"the object storage answered {what} with {told}") from error
            except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
                if last:
                    raise StorageDown(f"the object storage did not answer {what}: {error}") from error
        raise AssertionError("unreachable")


class MemoryStorage:
    """ObjectStorage in a dict: the double for tests."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, key: str, data: bytes | BinaryIO, media_type: str, size: int | None = None, sha256: str = "") -> None:
        """See `ObjectStorage.put`."""
        del media_type, size  # a dict needs neither
        if not isinstance(data, bytes):
            data.seek(0)
            data = data.read()
        if sha256 and hashlib.sha256(data).hexdigest() != sha256:
            raise StorageDown(f"PUT {key}: the data have another SHA-256 than was told")
        with self._lock:
            self._objects[key] = data

    def signed_put(self, key: str, data: bytes, media_type: str) -> SignedPut | None:
        """See `ObjectStorage.signed_put`."""
        del key, data, media_type  # nothing is sent
        return None

    def get(self, key: str, size: int | None = None) -> bytes:
        """See `ObjectStorage.get`."""
        try:
            return self._objects[key][:size]
        except KeyError:
            raise ObjectMissing(f"the object storage has no {key}") from None

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStorage.get_range`."""
        return self.get(key)[start : start + length]

    def writer(self, key: str, media_type: str) -> ObjectWriter:
        """See `ObjectStorage.writer`."""
        return MemoryWriter(partial(self.put, key, media_type=media_type))

    def presigned_put(self, key: str, expires_s: int) -> str:
        """See `ObjectStorage.presigned_put`."""
        return f"https://storage.example/{key}?expires={expires_s}"

    def keys(self, prefix: str) -> Iterator[str]:
        """See `ObjectStorage.keys`."""
        yield from sorted(key for key in list(self._objects) if key.startswith(prefix))

    def sizes(self, prefix: str) -> Iterator[int]:
        """See `ObjectStorage.sizes`."""
        return (len(self._objects[key]) for key in self.keys(prefix))

    def delete(self, prefix: str) -> int:
        """See `ObjectStorage.delete`."""
        with self._lock:
            names = [key for key in self._objects if key.startswith(prefix)]
            for name in names:
                del self._objects[name]
        return len(names)

    def check(self) -> None:
        """See `ObjectStorage.check`."""
