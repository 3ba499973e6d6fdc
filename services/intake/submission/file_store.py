"""The files of tenants, for the event loop: written as they arrive, found, read and deleted."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import structlog

from services.intake.clients.background import TaskSet
from services.intake.clients.storage import Storage
from services.intake.metrics import FILES
from services.intake.principal import Principal
from services.intake.quotas import quota_exceeded
from services.intake.submission.idempotency import KeyReservation, reserve_key
from services.intake.submission.size_errors import image_too_large
from services.intake.submission.streamed_file import StreamedFile
from services.intake.uploads import FileReference, Upload
from shared.errors import (
    IdempotencyInProgress,
    NotFound,
    ObjectMissing,
    QueueUnavailable,
    RequestError,
    StorageUnavailable,
    UnknownFile,
    UnsupportedImageType,
)
from shared.files import RANGE_BYTES, File, FileWriter, Purpose, content_key
from shared.ids import is_id
from shared.images import SNIFF_BYTES, accepted_formats, accepted_names, sniff
from shared.object_writers import PART_BYTES
from shared.store import files, transitions
from shared.store.client import AsyncStore

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class FileFields:
    """What an upload is to become."""

    purpose: Purpose
    filename: str
    expires_after: float | None  #: seconds; None: as OpenAI has it for the purpose


class FileUpload(StreamedFile):
    """A file of a request that becomes one of a tenant's."""

    def __init__(self, storage: Storage, writer: FileWriter) -> None:
        super().__init__(storage, writer.write)
        self.writer = writer
        self._start = b""

    def write(self, data: bytes) -> None:
        """Append `data`."""
        self._start += data[: SNIFF_BYTES - len(self._start)]
        super().write(data)

    def check_content(self, purpose: Purpose) -> None:
        """Raise `UnsupportedImageType` for a file of the purpose `vision` that is no image of an accepted format."""
        if purpose == "vision" and sniff(self._start) not in accepted_formats():
            raise UnsupportedImageType(f"the file is no image by its content; send {accepted_names()}")


class FileStore:
    """Every method that names a file raises `NotFound`, alike for one of another tenant and for none at all."""

    def __init__(self, store: AsyncStore, storage: Storage, background: TaskSet) -> None:
        self._store = store
        self._storage = storage
        self._background = background

    def begin(self, tenant: str) -> FileUpload:
        """Return what takes the bytes of a new file; it ends by `commit` or `discard`."""
        return FileUpload(self._storage, self._storage.file_writer(tenant))

    async def commit(
        self, caller: Principal, upload: FileUpload, fields: FileFields, idempotency_key: str | None
    ) -> File:
        """Return the file, which is durable, or the one that an earlier request with the same key made.

        Raises `RequestError`.
        """
        upload.check_content(fields.purpose)
        await upload.drain(0)
        fingerprint = f"file {fields} {upload.writer.sha256}"
        async with reserve_key(self._store, caller.tenant, idempotency_key, fingerprint) as reservation:
            if reservation.replay:
                self.discard(upload)
                return await self.get(caller.tenant, reservation.replay)
            return await self.commit_reserved(caller, upload, fields, reservation)

    async def commit_reserved(
        self, caller: Principal, upload: FileUpload, fields: FileFields, reservation: KeyReservation
    ) -> File:
        """Return the file, which is durable, of an upload that was drained."""

        def close() -> File:
            return upload.writer.close(
                fields.purpose, fields.filename, expires_after=fields.expires_after, idem=reservation.key
            )

        file = await self._storage.run(close, PART_BYTES)
        await self._put(caller, file, reservation)
        return file

    async def _put(self, caller: Principal, file: File, reservation: KeyReservation) -> None:
        stored = await self._store.run(files.put(file, limits=caller.limits.tenant, idem=reservation.binding(file.id)))
        if stored.limit is not None:
            raise quota_exceeded(stored.limit)
        if stored.outcome == "in_progress":
            raise IdempotencyInProgress(retry_after=1)
        FILES.labels(file.purpose).inc()

    def discard(self, upload: FileUpload) -> None:
        """Delete what was stored of an upload that became no file, in the background."""
        self._background.add(self._discard(upload.writer))

    async def _discard(self, writer: FileWriter) -> None:
        try:
            await self._storage.run(writer.abort, 0)
            await self._store.run(files.delete(writer.tenant, writer.id))  # of a record whose answer was lost
            await self._storage.delete_file(writer.id)
        except (QueueUnavailable, StorageUnavailable) as error:
            log.warning("objects of a refused file left to the reconciler", file=writer.id, error=error.detail)

    async def get(self, tenant: str, id: str) -> File:
        """Return a file."""
        file = await self._store.run(files.get(tenant, id)) if is_id("file", id) else None
        if file is None:
            raise NotFound
        return file

    async def list_files(
        self, tenant: str, *, purpose: str, after: str, limit: int, order: Literal["asc", "desc"]
    ) -> tuple[list[File], bool]:
        """Return a page of files, and whether there are more."""
        call = files.list_files(tenant, purpose=purpose, after=after, limit=limit, order=order)
        return await self._store.run(call)

    async def read(self, file: File) -> AsyncIterator[bytes]:
        """Yield the content piece by piece. Raises `NotFound` if it is gone, and `StorageUnavailable`."""
        start = 0
        while start < file.bytes:
            try:
                piece = await self._storage.get_range(content_key(file.id), start, RANGE_BYTES)
            except ObjectMissing:
                piece = b""
            if not piece:
                raise NotFound("the content of this file is no longer stored")
            yield piece
            start += len(piece)

    async def image(self, tenant: str, reference: FileReference, n: int, max_bytes: int) -> Upload:
        """Return the content of a file that is image `n` of a job. Raises `UnknownFile` or `ImageTooLarge`."""
        upload = Upload(reference.name)
        try:
            file = await self.get(tenant, reference.file_id)
            if file.bytes > max_bytes:
                raise image_too_large(n, max_bytes)
            async for piece in self.read(file):
                upload.write(piece)
        except NotFound as error:
            raise UnknownFile(image=n, field=reference.name) from error
        return upload

    async def delete(self, tenant: str, id: str) -> None:
        """Delete record and content of a file."""
        if not is_id("file", id) or not await self._store.run(files.delete(tenant, id)):
            raise NotFound
        try:
            await self._storage.delete_file(id)
            await self._store.run(transitions.purge_done([id]))
        except RequestError:  # its id is in the trash, which the reconciler empties
            pass
