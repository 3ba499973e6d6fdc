"""Uploads: files that come in parts, or past intake to a presigned URL of the object storage, and are named done.

files/{id}/upload.json   what the upload is to become, written first
files/{id}/sent-{part}   one part, stored while it arrived
files/{id}/sent          the bytes as the client put them, at a URL that works for `EXPIRES_S`

They become a file only by `complete`, which reads them once, checks and copies them, so that what is sent afterwards
changes no file. The reconciler deletes what was never completed (`sweep_files`).
"""

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from services.intake.clients.storage import Storage
from services.intake.principal import Principal
from services.intake.schemas.uploads import MAX_PARTS
from services.intake.submission.file_store import FileFields, FileStore, FileUpload
from services.intake.submission.idempotency import reserve_key
from services.intake.submission.size_errors import image_too_large
from services.intake.submission.streamed_file import StreamedFile
from shared.errors import BodyTooLarge, InvalidField, NotFound, ObjectMissing
from shared.files import RANGE_BYTES, File, FileWriter, Purpose, file_prefix
from shared.ids import created_at, is_id, new_id
from shared.object_writers import PART_BYTES
from shared.records import RecordValue
from shared.settings.roles import IntakeSettings
from shared.store.client import AsyncStore

EXPIRES_S = 3600  #: as an upload of OpenAI expires
MAX_PART_BYTES = 64 << 20  #: as OpenAI has it; its SDKs cut files into parts of this size
MAX_SENT_FACTOR = 2  #: times its bytes may the parts of an upload hold: a part whose answer was lost is sent again


class PendingUpload(RecordValue):
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
        return int(created_at(self.id)) + EXPIRES_S


class PendingUploads:
    """Every method that names an upload raises `NotFound`, alike for one of another tenant and for none at all."""

    def __init__(self, store: AsyncStore, storage: Storage, files: FileStore, settings: IntakeSettings) -> None:
        self._store = store
        self._storage = storage
        self._files = files
        self._settings = settings

    async def begin(self, tenant: str, fields: FileFields, size: int, sha256: str) -> tuple[PendingUpload, str | None]:
        """Return the upload of a file of `size` bytes, and where to put them, where the storage has a public address.

        Raises `BodyTooLarge` and `ImageTooLarge`.
        """
        if fields.purpose == "vision" and size > self._settings.max_image_bytes:
            raise image_too_large(0, self._settings.max_image_bytes)
        if size > self._settings.max_file_bytes:
            raise BodyTooLarge(f"at most {self._settings.max_file_bytes} bytes are allowed", field="bytes")
        upload = PendingUpload(
            id=new_id("upload"),
            tenant=tenant,
            purpose=fields.purpose,
            filename=fields.filename,
            bytes=size,
            sha256=sha256,
            expires_after=fields.expires_after,
        )
        await self._storage.put(_record_key(upload.id), upload.model_dump_json().encode(), "application/json")
        if not self._settings.s3_public_url:
            return upload, None
        return upload, await self._storage.presigned_put(_sent_key(upload.id), EXPIRES_S)

    async def add_part(self, tenant: str, id: str, receive: Callable[[StreamedFile], Awaitable[None]]) -> str:
        """Return the id of a new part, whose bytes `receive` takes from the request. Raises `InvalidField`."""
        await self._refuse_unless_open(await self._get(tenant, id))
        part = new_id("part")
        writer = self._storage.writer(_sent_key(id, part))
        file = StreamedFile(self._storage, writer.write)
        try:
            await receive(file)
            await file.drain(0)
            await self._storage.run(writer.close, PART_BYTES)
        except BaseException:
            await self._storage.run(writer.abort, 0)
            raise
        return part

    async def complete(
        self, caller: Principal, id: str, part_ids: Sequence[str], md5: str
    ) -> tuple[PendingUpload, File]:
        """Return the file of an upload, of its parts in this order or of what was put, the same one if it is repeated.

        Raises `InvalidField` where the bytes are others than were announced, and what `FileStore.commit` raises.
        """
        upload = await self._get(caller.tenant, id)
        key = hashlib.sha256(upload.id.encode()).hexdigest()
        async with reserve_key(self._store, caller.tenant, key, "complete") as reservation:
            if reservation.replay:
                return upload, await self._files.get(caller.tenant, reservation.replay)
            _refuse_expired(upload)
            writer = self._storage.file_writer(caller.tenant, id=upload.file_id)
            try:
                copy = await self._copy(upload, part_ids, writer, md5)
            except BaseException:
                await self._storage.run(writer.abort, 0)
                raise
            fields = FileFields(upload.purpose, upload.filename, upload.expires_after)
            file = await self._files.commit_reserved(caller, copy, fields, reservation)
        await self._storage.discard([_sent_key(upload.id)])
        return upload, file

    async def cancel(self, tenant: str, id: str) -> PendingUpload:
        """Delete what was sent of an upload. Raises `InvalidField` for one that was completed."""
        upload = await self._get(tenant, id)
        if await self._is_completed(upload):
            raise InvalidField("this upload was completed; delete the file instead", field="upload_id")
        await self._storage.delete(file_prefix(upload.file_id))
        return upload

    async def _refuse_unless_open(self, upload: PendingUpload) -> None:
        """Raise `NotFound` or `InvalidField` for an upload that takes no more parts."""
        _refuse_expired(upload)
        if await self._is_completed(upload):
            raise InvalidField("this upload was completed; begin another one", field="upload_id")
        sizes = await self._storage.sizes(_sent_key(upload.id, ""))
        if len(sizes) >= MAX_PARTS or sum(sizes) >= MAX_SENT_FACTOR * upload.bytes:
            detail = f"the {len(sizes)} parts of this upload hold {sum(sizes)} bytes, and {upload.bytes} were announced"
            raise InvalidField(f"{detail}; complete it, or begin another one", field="upload_id")

    async def _is_completed(self, upload: PendingUpload) -> bool:
        try:
            await self._files.get(upload.tenant, upload.file_id)
        except NotFound:
            return False
        return True

    async def _get(self, tenant: str, id: str) -> PendingUpload:
        if not is_id("upload", id):
            raise NotFound
        try:
            upload = PendingUpload.model_validate_json(await self._storage.get(_record_key(id)))
        except ObjectMissing as error:
            raise NotFound from error
        if upload.tenant != tenant:
            raise NotFound
        return upload

    async def _copy(self, upload: PendingUpload, part_ids: Sequence[str], writer: FileWriter, md5: str) -> FileUpload:
        """Return the bytes as the content of the file, checked."""
        copy, digest = FileUpload(self._storage, writer), hashlib.md5(usedforsecurity=False)
        async for piece in self._sent(upload, part_ids):
            digest.update(piece)
            copy.write(piece)
            await copy.drain()
        await copy.drain(0)
        if copy.size > upload.bytes and not part_ids:  # a presigned URL limits no size
            await self._storage.discard([_sent_key(upload.id)])
        if copy.size != upload.bytes:
            raise InvalidField(f"{_amount(copy.size, upload.bytes)} were sent, not {upload.bytes}", field="bytes")
        copy.check_content(upload.purpose)
        if upload.sha256 and writer.sha256 != upload.sha256:
            raise InvalidField(f"the bytes have the SHA-256 {writer.sha256}, not the one announced", field="sha256")
        if md5 and digest.hexdigest() != md5:
            raise InvalidField(f"the bytes have the MD5 {digest.hexdigest()}, not the one sent", field="md5")
        return copy

    async def _sent(self, upload: PendingUpload, part_ids: Sequence[str]) -> AsyncIterator[bytes]:
        """Yield what was sent, up to one piece beyond what was announced."""
        received, parts = 0, list[str | None](part_ids) or [None]
        for part in parts:
            start = 0
            while received <= upload.bytes and (piece := await self._piece(upload, part, start)):
                yield piece
                start += len(piece)
                received += len(piece)

    async def _piece(self, upload: PendingUpload, part: str | None, start: int) -> bytes:
        absent = "nothing was put to the URL of this upload, and `part_ids` names no part"
        if part is not None:
            absent = f"{part[:80]!r} is no part of this upload"
            if not is_id("part", part):
                raise InvalidField(absent, field="part_ids")
        try:
            return await self._storage.get_range(_sent_key(upload.id, part), start, RANGE_BYTES)
        except ObjectMissing as error:
            raise InvalidField(absent, field="part_ids") from error


def _refuse_expired(upload: PendingUpload) -> None:
    if upload.expires < time.time():
        raise NotFound(f"this upload expired {EXPIRES_S} s after it was begun; begin another one")


def _amount(size: int, announced: int) -> str:
    return f"more than {announced} bytes" if size > announced else f"{size} bytes"


def _file_id(id: str) -> str:
    return f"file_{id.partition('_')[2]}"


def _record_key(id: str) -> str:
    return f"{file_prefix(_file_id(id))}upload.json"


def _sent_key(id: str, part: str | None = None) -> str:
    """Return the key of a part, or of what was put in one piece, which all keys of parts begin with."""
    return f"{file_prefix(_file_id(id))}sent" + ("" if part is None else f"-{part}")
