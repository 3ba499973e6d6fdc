"""`/v1/uploads`: files in parts, or put to the object storage by clients, by the calls of OpenAI's SDKs."""

from typing import Annotated, Literal

from fastapi import Path, Request
from fastapi.responses import Response

from services.intake.context import Context, Uploader
from services.intake.openai.document import answers, openai_errors
from services.intake.openai.file_form import part_limits, read_part
from services.intake.openai.file_views import UploadBody, UploadPart, file_body
from services.intake.openai.surface import openai_router
from services.intake.openapi import request_body
from services.intake.rendering import json_response
from services.intake.schemas.requests import without_nulls
from services.intake.schemas.uploads import CompleteUpload, CreateUpload
from services.intake.schemas.validation import read
from services.intake.submission.body import read_form, read_json, refuse_body
from services.intake.submission.file_store import FileFields
from services.intake.submission.pending_uploads import MAX_PART_BYTES, PendingUpload
from services.intake.submission.streamed_file import StreamedFile, memory_reserved
from shared.errors import (
    BodyTooLarge,
    IdempotencyInProgress,
    ImageTooLarge,
    InvalidField,
    Malformed,
    NotFound,
    Overloaded,
    QuotaExceeded,
    StorageUnavailable,
    UnsupportedImageType,
    UnsupportedMediaType,
)
from shared.files import File
from shared.ids import created_at

router = openai_router("uploads")

_BODY_ERRORS = (Malformed, BodyTooLarge, UnsupportedMediaType, InvalidField)
Id = Annotated[str, Path(description="`upload_…`")]


@router.post(
    "/v1/uploads",
    responses=answers(UploadBody) | openai_errors(*_BODY_ERRORS, ImageTooLarge, StorageUnavailable),
    openapi_extra={"requestBody": request_body(json="CreateUpload")},
)
async def create(request: Request, context: Context, caller: Uploader) -> Response:
    """Begin an upload: send its parts, or put the whole file to `put_url`, then complete it."""
    asked = read(CreateUpload, without_nulls(await read_json(request, context.settings), CreateUpload))
    seconds = float(asked.expires_after.seconds) if asked.expires_after else None
    fields = FileFields(asked.purpose, asked.filename, seconds)
    upload, url = await context.uploads.begin(caller.tenant, fields, asked.bytes, asked.sha256 or "")
    return json_response(_body(upload, "pending", put_url=url))


@router.post(
    "/v1/uploads/{id}/parts",
    responses=answers(UploadPart) | openai_errors(*_BODY_ERRORS, NotFound, Overloaded, StorageUnavailable),
    openapi_extra={"requestBody": request_body(form="PartForm")},
)
async def add_part(request: Request, context: Context, caller: Uploader, id: Id) -> Response:
    """Store some bytes of the file while they arrive; completing the upload names its parts in order."""

    async def receive(file: StreamedFile) -> None:
        limits = part_limits(MAX_PART_BYTES)
        read_part(await read_form(request, context.settings, limits, open_file=file.named, drain=file.drain))

    with memory_reserved(context.settings):
        part = await context.uploads.add_part(caller.tenant, id, receive)
    return json_response(UploadPart(id=part, created_at=int(created_at(part)), upload_id=id))


@router.post(
    "/v1/uploads/{id}/complete",
    responses=answers(UploadBody)
    | openai_errors(
        *_BODY_ERRORS, NotFound, UnsupportedImageType, IdempotencyInProgress, QuotaExceeded, StorageUnavailable
    ),
    openapi_extra={"requestBody": request_body(json="CompleteUpload", required=False)},
)
async def complete(request: Request, context: Context, caller: Uploader, id: Id) -> Response:
    """Check the bytes that were sent; from then on they are a file. Repeating it answers the same."""
    sent = await read_json(request, context.settings, default={})
    asked = read(CompleteUpload, without_nulls(sent, CompleteUpload))
    upload, file = await context.uploads.complete(caller, id, asked.part_ids, asked.md5 or "")
    return json_response(_body(upload, "completed", file))


@router.post(
    "/v1/uploads/{id}/cancel", responses=answers(UploadBody) | openai_errors(NotFound, InvalidField, StorageUnavailable)
)
async def cancel(request: Request, context: Context, caller: Uploader, id: Id) -> Response:
    """Delete what was sent of an upload that was not completed."""
    await refuse_body(request, context.settings)
    return json_response(_body(await context.uploads.cancel(caller.tenant, id), "cancelled"))


def _body(
    upload: PendingUpload,
    status: Literal["pending", "completed", "cancelled"],
    file: File | None = None,
    put_url: str | None = None,
) -> UploadBody:
    return UploadBody(
        id=upload.id,
        bytes=upload.bytes,
        created_at=int(created_at(upload.id)),
        expires_at=upload.expires,
        filename=upload.filename,
        purpose=upload.purpose,
        status=status,
        file=file_body(file) if file else None,
        put_url=put_url,
    )
