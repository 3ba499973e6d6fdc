"""`/v1/files`: upload, list, read, download, delete."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

from fastapi import Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from services.intake.context import AppContext, Canceller, Context, Reader, Uploader
from services.intake.openai.document import answers, openai_errors
from services.intake.openai.file_form import read_fields, upload_limits
from services.intake.openai.file_views import DeletedFile, FileBody, FileList, file_body, file_list
from services.intake.openai.surface import openai_router
from services.intake.openapi import PREFERENCES, Responses, request_body
from services.intake.principal import Principal
from services.intake.rendering import json_response
from services.intake.submission.body import read_form
from services.intake.submission.file_store import FileUpload
from services.intake.submission.headers import read_headers
from services.intake.submission.streamed_file import memory_reserved
from shared.errors import (
    BodyTooLarge,
    IdempotencyInProgress,
    IdempotencyMismatch,
    ImageTooLarge,
    InvalidField,
    Malformed,
    NotFound,
    Overloaded,
    QuotaExceeded,
    StorageUnavailable,
    UnsupportedImageType,
    UnsupportedMediaType,
    UnsupportedParameter,
)
from shared.files import File
from shared.ids import is_id

router = openai_router("files")

MAX_PAGE = 1000  #: files of one page, however many are asked for: SDKs read on
Id = Annotated[str, Path(description="`file_…`")]
_CONTENT: Responses = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}


@router.post(
    "/v1/files",
    responses=answers(FileBody)
    | openai_errors(
        Malformed,
        BodyTooLarge,
        ImageTooLarge,
        UnsupportedImageType,
        UnsupportedMediaType,
        UnsupportedParameter,
        InvalidField,
        IdempotencyMismatch,
        IdempotencyInProgress,
        QuotaExceeded,
        Overloaded,
        StorageUnavailable,
    ),
    openapi_extra={"requestBody": request_body(form="FileForm"), "parameters": PREFERENCES[:1]},
)
async def create(request: Request, context: Context, caller: Uploader) -> Response:
    """Upload a file; it is stored while it arrives."""
    headers = read_headers(request)
    with memory_reserved(context.settings):
        upload = context.files.begin(caller.tenant)
        try:
            file = await _store(request, context, caller, upload, headers.idempotency_key)
        except BaseException:
            context.files.discard(upload)
            raise
    return json_response(file_body(file))


async def _store(request: Request, context: AppContext, caller: Principal, upload: FileUpload, key: str | None) -> File:
    form = await read_form(
        request, context.settings, upload_limits(context.settings), open_file=upload.named, drain=upload.drain
    )
    return await context.files.commit(caller, upload, read_fields(form, context.settings), key)


@router.get("/v1/files", responses=answers(FileList) | openai_errors(InvalidField))
async def list_files(  # noqa: PLR0917  # FastAPI reads the query from it
    context: Context,
    caller: Reader,
    after: Annotated[str | None, Query(description="`last_id` of the previous page")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000, description=f"a page has at most {MAX_PAGE}")] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
    purpose: Annotated[str | None, Query()] = None,
) -> Response:
    """Files in order of time."""
    if after is not None and not is_id("file", after):
        raise InvalidField("`after` is not a file id", field="after")
    found, more = await context.files.list_files(
        caller.tenant, purpose=purpose or "", after=after or "", limit=min(limit, MAX_PAGE), order=order
    )
    return json_response(file_list(found, has_more=more))


@router.get("/v1/files/{id}", responses=answers(FileBody) | openai_errors(NotFound))
async def read(context: Context, caller: Reader, id: Id) -> Response:
    """What is known of a file."""
    return json_response(file_body(await context.files.get(caller.tenant, id)))


@router.get(
    "/v1/files/{id}/content",
    response_class=Response,
    responses=_CONTENT | openai_errors(NotFound, StorageUnavailable),
)
async def content(context: Context, caller: Reader, id: Id) -> Response:
    """The bytes as they were sent."""
    file = await context.files.get(caller.tenant, id)
    pieces = context.files.read(file)
    first = await anext(pieces, b"")  # so that what is gone is a 404
    headers = {"Content-Length": str(file.bytes), "Content-Disposition": f'attachment; filename="{file.id}"'}
    return StreamingResponse(_joined(first, pieces), headers=headers, media_type="application/octet-stream")


@router.delete("/v1/files/{id}", responses=answers(DeletedFile) | openai_errors(NotFound))
async def delete(context: Context, caller: Canceller, id: Id) -> Response:
    """Delete a file; jobs that were made with it keep their copies."""
    await context.files.delete(caller.tenant, id)
    return json_response(DeletedFile(id=id))


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
