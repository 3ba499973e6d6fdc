"""Uploads that go past intake: a client puts the bytes to a presigned URL of the object storage, and names them done.

files/{id}/upload.json   what the upload is to become, written first
files/{id}/sent          the bytes as the client put them, at a URL that works for `URL_EXPIRES_S`

They become a file only by `complete`, which reads them once, checks and copies them, so that what is put to the URL
afterwards changes no file. The reconciler deletes what was never completed (`sweep_files`).
"""

import hashlib
import time
from collections.abc import AsyncIterator

from services.intake.clients.storage import Storage
from services.intake.principal import Principal
from services.intake.submission.file_store import FileFields, FileStore, FileUpload
from services.intake.submission.idempotency import reserve_key
from services.intake.submission.size_errors import image_too_large
from shared.errors import (
    BodyTooLarge,
    InvalidField,
    NotFound,
    ObjectMissing,
    UploadsDisabled,
)
from shared.files import RANGE_BYTES, File, FileWriter, Purpose, file_prefix
from shared.ids import created_at, is_id, new_id
from shared.records import RecordValue
from shared.settings.roles import IntakeSettings
from shared.store.client import AsyncStore

URL_EXPIRES_S = 3600  #: as an upload of OpenAI expires


class DirectUpload(RecordValue):
    """An upload that was begun."""

    id: str  #: `upload_` and the same characters as the file's
    tenant: str
    purpose: Purpose
    filename: str
    bytes: int
    sha256: str = ""  #: hex digest that the bytes must have; "": any
    expires_after: float | None = None  #: seconds, of the file

    @property
    def file_id(self) -> str:
        """The id of the file that it becomes."""
        return _file_id(self.id)

    @property
    def expires(self) -> int:
        """When it can be completed no longer, in seconds since the epoch."""
        return int(created_at(self.id)) + URL_EXPIRES_S


class DirectUploads:
    """Every method that names an upload raises `NotFound`, alike for one of another tenant and for none at all."""

    def __init__(self, store: AsyncStore, storage: Storage, files: FileStore, settings: IntakeSettings) -> None:
        self._store = store
        self._storage = storage
        self._files = files
        self._settings = settings

    async def begin(self, tenant: str, fields: FileFields, size: int, sha256: str) -> tuple[DirectUpload, str]:
        """Return the upload of a file of `size` bytes, and where to put them.

        Raises `UploadsDisabled`, `BodyTooLarge` and `ImageTooLarge`.
        """
        if not self._settings.s3_public_url:
            raise UploadsDisabled
        if fields.purpose == "vision" and size > self._settings.max_image_bytes:
            raise image_too_large(0, self._settings.max_image_bytes)
        if size > self._settings.max_file_bytes:
            raise BodyTooLarge(f"at most {self._settings.max_file_bytes} bytes are allowed", field="bytes")
        upload = DirectUpload(
            id=new_id("upload"),
            tenant=tenant,
            purpose=fields.purpose,
            filename=fields.filename,
            bytes=size,
            sha256=sha256,
            expires_after=fields.expires_after,
        )
        await self._storage.put(_record_key(upload.id), upload.model_dump_json().encode(), "application/json")
        return upload, await self._storage.presigned_put(_sent_key(upload.id), URL_EXPIRES_S)

    async def complete(self, caller: Principal, id: str, md5: str) -> tuple[DirectUpload, File]:
        """Return the file of an upload whose bytes were put, the same one if it is repeated.

        Raises `InvalidField` where the bytes are others than were announced, and what `FileStore.commit` raises.
        """
        upload = await self._get(caller.tenant, id)
        key = hashlib.sha256(upload.id.encode()).hexdigest()
        async with reserve_key(self._store, caller.tenant, key, "complete") as reservation:
            if reservation.replay:
                return upload, await self._files.get(caller.tenant, reservation.replay)
            if upload.expires < time.time():
                raise NotFound(f"this upload expired {URL_EXPIRES_S} s after it was begun; begin another one")
            writer = self._storage.file_writer(caller.tenant, id=upload.file_id)
            try:
                copy = await self._copy(upload, writer, md5)
            except BaseException:
                await self._storage.run(writer.abort, 0)
                raise
            fields = FileFields(upload.purpose, upload.filename, upload.expires_after)
            file = await self._files.commit_reserved(caller, copy, fields, reservation)
        await self._storage.delete(_sent_key(upload.id))
        return upload, file

    async def cancel(self, tenant: str, id: str) -> DirectUpload:
        """Delete what was put of an upload. Raises `InvalidField` for one that was completed."""
        upload = await self._get(tenant, id)
        try:
            await self._files.get(tenant, upload.file_id)
        except NotFound:
            await self._storage.delete(file_prefix(upload.file_id))
            return upload
        raise InvalidField("this upload was completed; delete the file instead", field="upload_id")

    async def _get(self, tenant: str, id: str) -> DirectUpload:
        if not is_id("upload", id):
            raise NotFound
        try:
            upload = DirectUpload.model_validate_json(await self._storage.get(_record_key(id)))
        except ObjectMissing as error:
            raise NotFound from error
        if upload.tenant != tenant:
            raise NotFound
        return upload

    async def _copy(self, upload: DirectUpload, writer: FileWriter, md5: str) -> FileUpload:
        """Return the bytes as the content of the file, checked."""
        copy, digest = FileUpload(self._storage, writer), hashlib.md5(usedforsecurity=False)
        async for piece in self._sent(upload):
            digest.update(piece)
            copy.write(piece)
            await copy.drain()
        await copy.drain(0)
        if copy.size != upload.bytes:
            raise InvalidField(f"{_amount(copy.size, upload.bytes)} were put, not {upload.bytes}", field="bytes")
        copy.check_content(upload.purpose)
        if upload.sha256 and writer.sha256 != upload.sha256:
            raise InvalidField(f"the bytes have the SHA-256 {writer.sha256}, not the one announced", field="sha256")
        if md5 and digest.hexdigest() != md5:
            raise InvalidField(f"the bytes have the MD5 {digest.hexdigest()}, not the one sent", field="md5")
        return copy

    async def _sent(self, upload: DirectUpload) -> AsyncIterator[bytes]:
        """Yield what was put, up to one piece beyond what was announced."""
        start = 0
        while start <= upload.bytes:
            try:
                piece = await self._storage.get_range(_sent_key(upload.id), start, RANGE_BYTES)
            except ObjectMissing as error:
                raise InvalidField("nothing was put to the URL of this upload", field="bytes") from error
            if not piece:
                return
            yield piece
            start += len(piece)


def _amount(size: int, announced: int) -> str:
    return f"more than {announced} bytes" if size > announced else f"{size} bytes"


def _file_id(id: str) -> str:
    return f"file_{id.partition('_')[2]}"


def _record_key(id: str) -> str:
    return f"{file_prefix(_file_id(id))}upload.json"


def _sent_key(id: str) -> str:
    return f"{file_prefix(_file_id(id))}sent"
