"""A file of a request that is stored while it arrives; what it holds in memory counts as JSON bodies do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from services.intake.clients.storage import Storage
from services.intake.submission.json_body import body_memory
from services.intake.uploads import StreamedUpload
from shared.object_writers import PART_BYTES
from shared.settings.roles import IntakeSettings

MAX_HELD_BYTES = 2 * PART_BYTES  #: of one file in memory: what arrived, and the part that is being stored


@contextmanager
def memory_reserved(settings: IntakeSettings) -> Iterator[None]:
    """Hold the memory of one file while it is received. Raises `Overloaded`."""
    held = body_memory().reserve()
    held.add(MAX_HELD_BYTES, max(settings.max_json_memory, settings.max_body_bytes))
    yield


class StreamedFile(StreamedUpload):
    """A file whose bytes go to `write`, which blocks, a part at a time."""

    def __init__(self, storage: Storage, write: Callable[[bytes], None]) -> None:
        super().__init__("file")
        self._storage = storage
        self._store = write

    def named(self, name: str, filename: str | None) -> "StreamedFile":
        """Return this file, which is the part `name` of the form."""
        self.name, self.filename = name, filename
        return self

    async def drain(self, least_bytes: int = PART_BYTES) -> None:
        """Store what is pending, if it is at least `least_bytes`. Raises `StorageUnavailable`."""
        if self.pending_bytes >= max(least_bytes, 1):
            data = self.take()
            await self._storage.run(lambda: self._store(data), len(data))
