"""Requests to `/v1/uploads` as OpenAI's SDKs write them; `sha256` is ours."""

from typing import Annotated, Literal

from pydantic import Field, WrapValidator

from services.intake.schemas.requests import NullableModel, StrictModel
from services.intake.schemas.validation import worded


def _hex(digits: int) -> WrapValidator:
    return worded(f"must be {digits} hexadecimal digits in lower case")


class ExpiresAfter(StrictModel):
    """When the file expires."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class CreateUpload(NullableModel):
    """A file that is to be put to the object storage."""

    filename: Annotated[str, Field(min_length=1, max_length=255)]
    purpose: Literal["vision", "batch", "user_data"]
    bytes: Annotated[int, Field(ge=1, description="exactly so many are to be put")]
    mime_type: Annotated[str, Field(max_length=255, description="not looked at: the content decides")] = ""
    expires_after: ExpiresAfter | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="that the bytes must have"), _hex(64)] | None = (
        None
    )


class CompleteUpload(NullableModel):
    """What the bytes must be, beside what was announced."""

    part_ids: Annotated[
        list[str],
        Field(max_length=0, description="empty: the bytes are put to `put_url`"),
        worded("must be []: parts are not served; put the whole file to `put_url`"),
    ] = Field([])
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$"), _hex(32)] | None = None
