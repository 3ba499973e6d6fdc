"""Object storage on any S3 server."""

import io
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import BinaryIO, TypeVar

import urllib3
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error
from minio.helpers import DictType

from shared.connections.s3_client import DIGEST_HEADER, MAX_SINGLE_PUT_BYTES, SignedPut, s3_client
from shared.errors import ObjectMissing, StorageDown
from shared.object_writers import S3Writer
from shared.settings.storage import StorageSettings
from shared.storage import PROBE_KEY, ObjectWriter

T = TypeVar("T")

PAGE_KEYS = 1000  #: keys of one LIST request, the most that S3 returns
#: What an S3 server answers that repeating would not change.
_FINAL = {"NoSuchKey", "NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


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
