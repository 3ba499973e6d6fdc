"""Files: what clients upload, and what batches write for them to fetch.

files/{id}/content     the bytes
files/{id}/file.json   the record, written after the content: `--recover` restores from it what the job store lost

The job store has the same record, by which files are found, listed and expired (`shared/store/files.py`). Content never
changes. Any process can write a file:

    writer = FileWriter(objects, tenant="acme")
    writer.write(line)
    store.run(files.put(writer.close("batch_output", "output.jsonl")))
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Literal, Self

from shared.errors import ObjectMissing
from shared.ids import created_at, new_id
from shared.records import RecordValue
from shared.storage import ObjectStorage

Purpose = Literal["vision", "batch", "user_data", "batch_output"]
UPLOAD_PURPOSES = ("vision", "batch", "user_data")  #: that a client may name; the others are tileq's own
BATCH_RETENTION_S = 30 * 86_400  #: of a file for or of a batch that names no expiry, as OpenAI has it
RANGE_BYTES = 4 << 20  #: that `read` fetches at once
FILES_PREFIX = "files/"


class File(RecordValue):
    """The record of one file."""

    id: str
    tenant: str
    purpose: Purpose
    filename: str
    bytes: int
    sha256: str
    expires: float = 0  #: seconds since the epoch; 0: it stays until it is deleted
    idem: str = ""  #: hash of the Idempotency-Key

    @property
    def created(self) -> float:
        """When it was created, in seconds since the epoch."""
        return created_at(self.id)

    def to_hash(self) -> dict[str, str]:
        """Return the fields as strings of a Redis hash."""
        return {name: str(value) for name, value in self.model_dump().items()}

    @classmethod
    def from_hash(cls, record: Mapping[str, str]) -> Self:
        """Parse a Redis hash."""
        return cls.model_validate(record)


def content_key(id: str) -> str:
    """Return the key of the bytes of file `id`."""
    return f"{FILES_PREFIX}{id}/content"


def record_key(id: str) -> str:
    """Return the key of the record of file `id`."""
    return f"{FILES_PREFIX}{id}/file.json"


def file_prefix(id: str) -> str:
    """Return what all keys of file `id` begin with."""
    return f"{FILES_PREFIX}{id}/"


class FileWriter:
    """Writes the content of a new file to object storage as it comes, a part at a time in memory.

    The file exists once its record, which `close` returns, is in the job store too. Every method raises `StorageDown`.
    """

    def __init__(self, objects: ObjectStorage, *, tenant: str, id: str = "") -> None:
        """`id`: of a file that is written again from its beginning, after the process that began it died."""
        self.id = id or new_id("file")
        self.size = 0
        self.tenant = tenant
        self._objects = objects
        self._hash = hashlib.sha256()
        self._content = objects.writer(content_key(self.id), "application/octet-stream")

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self._content.write(data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def sha256(self) -> str:
        """Hex digest of everything that was written."""
        return self._hash.hexdigest()

    def close(self, purpose: Purpose, filename: str, *, expires_after: float | None = None, idem: str = "") -> File:
        """Store content and record, and return the record. `expires_after`: seconds; None: as OpenAI has it."""
        seconds = default_retention(purpose) if expires_after is None else expires_after
        file = File(
            id=self.id,
            tenant=self.tenant,
            purpose=purpose,
            filename=filename,
            bytes=self.size,
            sha256=self.sha256,
            expires=created_at(self.id) + seconds if seconds else 0,
            idem=idem,
        )
        self._content.close()
        self._objects.put(record_key(self.id), file.model_dump_json().encode(), "application/json")
        return file

    def abort(self) -> None:
        """Drop what was written of a file that was not closed; nothing is raised."""
        self._content.abort()


def default_retention(purpose: Purpose) -> float:
    """Return the seconds after which a file expires that names no expiry; 0: never."""
    return BATCH_RETENTION_S if purpose in ("batch", "batch_output") else 0


def read(objects: ObjectStorage, file: File, start: int = 0) -> Iterator[bytes]:
    """Yield the content from byte `start` on, piece by piece. Raises `StorageDown` or `ObjectMissing`."""
    while start < file.bytes:
        piece = objects.get_range(content_key(file.id), start, RANGE_BYTES)
        if not piece:
            raise ObjectMissing(f"the content of {file.id} ends at byte {start} of {file.bytes}")
        yield piece
        start += len(piece)


def delete_file_objects(objects: ObjectStorage, id: str) -> None:
    """Delete the objects of file `id`, the record first: without it, `--recover` never restores a file in part."""
    objects.delete(record_key(id))
    objects.delete(file_prefix(id))
