"""What `/v1/files` shows of a file, and `/v1/uploads` of an upload; `sha256` and `put_url` are ours."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from shared.files import File, Purpose
from shared.views import Body


class FileBody(Body):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Purpose
    sha256: str
    status: Annotated[Literal["processed"], Field(description="always this value")] = "processed"
    status_details: None = None


class FileList(Body):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileBody]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Body):
    """A file that is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class UploadBody(Body):
    """An upload."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Purpose
    status: Literal["pending", "completed", "cancelled"]
    file: FileBody | None
    put_url: Annotated[
        str | None,
        Field(description="where to PUT the whole file in place of parts, while the upload is pending; null: nowhere"),
    ]


class UploadPart(Body):
    """A part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def file_body(file: File) -> FileBody:
    """Return a file as OpenAI's SDKs read it."""
    return FileBody(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created),
        expires_at=int(file.expires) or None,
        filename=file.filename,
        purpose=file.purpose,
        sha256=file.sha256,
    )


def file_list(files: Sequence[File], *, has_more: bool) -> FileList:
    """Return a page of files."""
    data = [file_body(file) for file in files]
    first, last = (data[0].id, data[-1].id) if data else (None, None)
    return FileList(data=data, first_id=first, last_id=last, has_more=has_more)
