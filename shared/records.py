"""The typed values inside a job's record, which the API shows as they are.

The store keeps each as JSON. An unknown field is ignored: a newer version wrote it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class RecordValue(BaseModel):
    """A JSON object of a record."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class JobImage(RecordValue):
    """One image of a job, and the tiles that the model sees of it. Sides are pixels.

    Of an image that the request named by URL the first three are null until a worker fetched it, the others until it
    was decoded.
    """

    media_type: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    grid: Annotated[list[int] | None, Field(min_length=2, max_length=2, description="columns, rows")] = None
    tiles: Annotated[int | None, Field(description="tiles of the grid and the thumbnail")] = None
    warning: Annotated[str | None, Field(description="what is missing of it: its file is truncated")] = None


class WebhookTarget(RecordValue):
    """Where the webhooks of a job or batch go, which events they report, and what is sent beside tileq's headers."""

    url: str
    host: str  #: host and port: concurrency and circuit breaker count by it
    events: list[str]
    payload: Literal["full", "thin"] = "full"
    headers: Annotated[dict[str, str], Field(repr=False)] = {}  #: secrets, see shared/webhooks/headers.py


class JobOutput(RecordValue):
    """The generated text and why it ends."""

    text: str
    finish_reason: Literal["stop", "length"]


class JobError(RecordValue):
    """Why a job has no output."""

    code: str
    message: str
    retryable: bool = False
    image: Annotated[int | None, Field(description="index of the image that is at fault")] = None


class TokenUsage(RecordValue):
    """Tokens of a job."""

    prompt_tokens: int = 0  #: those of the images included
    image_tokens: int = 0
    cached_tokens: int = 0  #: of the prompt, taken from the prefix cache
    completion_tokens: int = 0


class StageTimings(RecordValue):
    """Seconds of each stage of the attempt that answered. Without `first_token` they add up to `total`."""

    queue: Annotated[float | None, Field(description="from submission to this attempt's claim")] = None
    fetch: Annotated[float | None, Field(description="reading the request and its images")] = None
    tile: Annotated[float | None, Field(description="decoding the images and cutting tiles")] = None
    engine_wait: Annotated[
        float | None, Field(description="building the prompt, and waiting for a place in the engine's steps")
    ] = None
    vision: Annotated[float | None, Field(description="encoding tiles, beside other jobs")] = None
    prefill: Annotated[float | None, Field(description="computing the prompt, beside other jobs")] = None
    decode: Annotated[float | None, Field(description="from the first token to the last")] = None
    first_token: Annotated[float | None, Field(description="from submission to the first text")] = None
    total: Annotated[float | None, Field(description="from submission to the answer")] = None


class OpenAiOptions(RecordValue):
    """What a job that was made on OpenAI's surface was asked with, as far as its answers repeat it."""

    api: Literal["responses", "chat.completions"]
    background: bool = False
    store: bool = True
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float = 0
    top_p: float = 1
    text_format: dict[str, Any] | None = None  #: None: plain text
