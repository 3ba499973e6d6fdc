"""The bytes of one file of a request, in memory or on disk."""

import hashlib
import threading
from tempfile import SpooledTemporaryFile
from typing import BinaryIO, cast

import structlog

from shared.errors import Overloaded

NO_ROOM = "this service has no room for temporary files just now; repeat the request later"
RETRY_AFTER_S = 10.0
MAX_IN_MEMORY_BYTES = 1 << 20  #: of one file; a larger one goes to disk while it arrives
log = structlog.get_logger(__name__)


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
        """Append `data`. Raises `Overloaded` where the temporary folder takes no more."""
        try:
            self.file.write(data)
        except OSError as error:  # full, read-only, or missing: nothing is wrong with the file that is sent
            log.error("temporary file not written", error=str(error))
            raise Overloaded(NO_ROOM, retry_after=RETRY_AFTER_S) from error
        self._hash.update(data)
        self.size += len(data)

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
