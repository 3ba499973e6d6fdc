"""Objects that are stored piece by piece (`ObjectStorage.writer`), in parts of the least size that S3 allows."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from shared.connections.s3_client import MAX_SINGLE_PUT_BYTES, S3Client
from shared.errors import StorageDown

#: Of every part but the last one: the least that S3 takes, since a writer holds a part in memory.
PART_BYTES = MAX_SINGLE_PUT_BYTES


class _Attempt(Protocol):
    """Does something once more where the trouble may pass. Raises `StorageDown`."""

    def __call__(self, act: Callable[[], Any]) -> Any: ...


class S3Writer:
    """One object of an S3 server: a single PUT up to `PART_BYTES`, a multipart upload above."""

    def __init__(  # noqa: PLR0917
        self,
        client: S3Client,
        bucket: str,
        name: str,
        media_type: str,
        put: Callable[[bytes], None],
        attempt: _Attempt,
    ) -> None:
        self._client = client
        self._place = (bucket, name)
        self._media_type = media_type
        self._put = put
        self._attempt = attempt
        self._pending = bytearray()
        self._upload_id = ""
        self._etags: list[str] = []

    def write(self, data: bytes) -> None:
        """See `ObjectWriter.write`; what makes a part is sent."""
        self._pending += data
        while len(self._pending) > PART_BYTES:
            self._send(bytes(self._pending[:PART_BYTES]))
            del self._pending[:PART_BYTES]

    def close(self) -> None:
        """See `ObjectWriter.close`."""
        if not self._upload_id:
            self._put(bytes(self._pending))
            return
        self._send(bytes(self._pending))
        self._attempt(lambda: self._client.complete_parts(*self._place, self._upload_id, self._etags))

    def abort(self) -> None:
        """See `ObjectWriter.abort`; parts that stay where the server is down are the bucket's lifecycle rule's."""
        if self._upload_id:
            with suppress(StorageDown):
                self._attempt(lambda: self._client.abort_parts(*self._place, self._upload_id))

    def _send(self, part: bytes) -> None:
        if not self._upload_id:
            self._upload_id = self._attempt(lambda: self._client.begin_parts(*self._place, self._media_type))
        number = len(self._etags) + 1
        self._etags.append(self._attempt(lambda: self._client.put_part(*self._place, self._upload_id, number, part)))


class MemoryWriter:
    """The double of `S3Writer`."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._pending = bytearray()

    def write(self, data: bytes) -> None:
        """See `ObjectWriter.write`."""
        self._pending += data

    def close(self) -> None:
        """See `ObjectWriter.close`."""
        self._put(bytes(self._pending))

    def abort(self) -> None:
        """See `ObjectWriter.abort`."""
