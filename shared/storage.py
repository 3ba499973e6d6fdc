"""Object storage: images, manifests and results, on any S3 server (`shared/s3_storage.py`) or in memory.

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
import threading
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, Protocol

from shared.connections.s3_client import SignedPut
from shared.errors import ObjectMissing, StorageDown
from shared.object_writers import MemoryWriter

BATCHES_PREFIX = "batches/"  #: of the manifests of batches
ENDPOINTS_PREFIX = "webhook_endpoints/"  #: of the copies of webhook endpoints
ENDED_PREFIX = "ended/"  #: of the groups of ends
PROBE_KEY = "health/probe"


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
