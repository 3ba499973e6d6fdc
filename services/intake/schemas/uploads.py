"""Requests to `/v1/uploads` as OpenAI's SDKs write them; `sha256` is ours."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field, WrapValidator

from services.intake.schemas.requests import NullableModel, StrictModel
from services.intake.schemas.validation import worded

MAX_PARTS = 10_000  #: of one upload


def _hex(digits: int) -> WrapValidator:
    return worded(f"must be {digits} hexadecimal digits in lower case")


class ExpiresAfter(StrictModel):
    """When the file expires."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class CreateUpload(NullableModel):
    """A file that is to be sent in parts, or put to the object storage."""

    filename: Annotated[str, Field(min_length=1, max_length=255)]
    purpose: Literal["vision", "batch", "user_data"]
    bytes: Annotated[int, Field(ge=1, description="exactly so many are to be sent")]
    mime_type: Annotated[str, Field(max_length=255, description="not looked at: the content decides")] = ""
    expires_after: ExpiresAfter | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="that the bytes must have"), _hex(64)] | None = (
        None
    )


class CompleteUpload(NullableModel):
    """What the bytes must be, beside what was announced."""

    part_ids: Annotated[
        list[Annotated[str, Field(max_length=100)]],
        Field(max_length=MAX_PARTS, description="in the order of the file; empty: it was put to `put_url`"),
        worded(f"must be a list of at most {MAX_PARTS} ids of parts, `part_…`"),
    ] = Field([])
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$"), _hex(32)] | None = None


class PartForm(BaseModel):
    """The form of `POST /v1/uploads/{id}/parts`."""

    data: Annotated[bytes, Field(json_schema_extra={"format": "binary"}, description="at most 64 MiB")]
