"""The bytes of one file of a request, in memory or on disk."""

import hashlib
import tempfile
import threading
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import structlog

from shared.errors import Overloaded
from shared.settings.base import SettingsError

MAX_IN_MEMORY_BYTES = 1 << 20  #: of one file; a larger one goes to disk while it arrives
log = structlog.get_logger(__name__)


def refuse_unless_writable() -> None:
    """Raise `SettingsError` where no temporary folder can be written, which large uploads need."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"tileq")
    except OSError as error:
        raise SettingsError(
            f"no temporary folder can be written ({error}), and large uploads need one: "
            "mount a writable volume at /tmp, or name another folder by TMPDIR"
        ) from error


class Upload:
    """A file that came with a request, its size and hash. Safe to read from several threads under `lock`."""

    def __init__(self, name: str, filename: str | None = None) -> None:
        self.name = name
        self.filename = filename  #: None where the part has none; only ever compared, never used as a path
        self.size = 0
        self.file: BinaryIO = cast(BinaryIO, SpooledTemporaryFile(max_size=MAX_IN_MEMORY_BYTES))  # noqa: SIM115
        self.lock = threading.Lock()
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        """Append `data`. Raises `Overloaded` where the temporary folder has no room for it."""
        try:
            self.file.write(data)
        except OSError as error:
            log.error("temporary folder can't be written", folder=tempfile.gettempdir(), error=str(error))
            detail = "this service has no room for the files of this request just now; repeat the request later"
            raise Overloaded(detail, retry_after=5) from error
        self._hash.update(data)
        self.size += len(data)

    def content(self) -> bytes:
        """Return everything that was written. Safe to call from several threads."""
        with self.lock:
            self.file.seek(0)
            return self.file.read()

    def __del__(self) -> None:
        """Close the file with its last user, which may be a thread that outlives the request."""
        self.file.close()

    @property
    def sha256(self) -> str:
        """Hex digest of everything that was written."""
        return self._hash.hexdigest()

    @classmethod
    def of(cls, name: str, data: bytes) -> "Upload":
        """Return an upload that holds `data`."""
        upload = cls(name)
        upload.write(data)
        return upload


@dataclass(frozen=True)
class FileReference:
    """A file of `/v1/files` that a request names in place of its bytes."""

    name: str  #: its place in the request
    file_id: str

    @property
    def sha256(self) -> str:
        """What tells this file from others, as `Upload.sha256` does: the content of a file never changes."""
        return self.file_id


@dataclass(frozen=True)
class ImageUrl:
    """An image that a worker fetches."""

    name: str  #: its place in the request
    url: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """What tells this image from others, as `Upload.sha256` does: nothing else is known of it."""
        return self.url


#: What a request names as one of its images.
ImageSource = Upload | FileReference | ImageUrl


class StreamedUpload(Upload):
    """A file that is passed on while it arrives: it holds the bytes only that were not taken yet, and has no hash."""

    def __init__(self, name: str, filename: str | None = None) -> None:
        super().__init__(name, filename)
        self._pending = bytearray()

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self._pending += data
        self.size += len(data)

    @property
    def pending_bytes(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._pending)

    def take(self) -> bytes:
        """Return the bytes that were not taken yet, and hold them no longer."""
        taken, self._pending = bytes(self._pending), bytearray()
        return taken
