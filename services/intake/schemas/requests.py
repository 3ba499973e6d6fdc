"""A request as it is written by a client, to the letter; what follows from it is worked out in `compose`."""

import json
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from services.intake.errors import of_validation
from shared.conversation import Message
from shared.requests import Generation

B = TypeVar("B", bound=BaseModel)

JobEvent = Literal["job.started", "job.succeeded", "job.failed", "job.cancelled", "job.expired"]
Payload = Literal["full", "thin"]
Tiles = Annotated[int, Field(ge=1, le=40)]
OneOrEach = Annotated[
    Annotated[Tiles, Tag("number")] | Annotated[list[Tiles], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "number"),
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16, description="echoed everywhere"),
]
Url = Annotated[
    str,
    Field(min_length=1, max_length=2048, examples=["https://example.org/hook"], json_schema_extra={"format": "uri"}),
]
DataUri = Annotated[
    str,
    Field(
        description="`data:image/jpeg;base64,…`; the content decides, not the type it names",
        pattern="^data:[^,;]{0,100};base64,",
    ),
]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Webhook(_Asked):
    """Where to tell of the job."""

    url: Url
    events: Annotated[list[JobEvent], Field(min_length=1, max_length=5)] | None = None
    payload: Payload = "full"


class BatchWebhook(_Asked):
    """Where to tell of the end of the batch."""

    url: Url
    events: Annotated[list[Literal["batch.ended"]], Field(min_length=1, max_length=1)] | None = None
    payload: Payload = "full"


class Part(_Asked):
    """A file part of the same multipart body."""

    part: Annotated[str, Field(min_length=1, max_length=256)]


class _Question(_Asked):
    model: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    prompt: Annotated[str, Field(description="the text of a single round")] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] | None = None
    parent: Annotated[str, Field(max_length=100)] | None = None
    tiles: OneOrEach | None = Field(None, description="most tiles of each image; one number, or one for each")
    thumbnail: bool = True
    generation: Generation = Generation()
    webhook: Webhook | None = None
    metadata: Metadata = {}
    start_within: Seconds | None = None
    run_within: Seconds | None = None
    priority: Literal["high", "normal", "low"] = "normal"

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either `prompt` or `messages`")
        return self

    def rounds(self) -> tuple[Message, ...]:
        """The texts, whichever way they were written."""
        return tuple(self.messages or [Message(role="user", content=self.prompt or "")])


class JobRequest(_Question):
    """One question. `images` come as file parts instead where the body is multipart."""


class JobJson(_Question):
    """One question, images included."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "What is a tile?"}]})

    images: list[DataUri] = []


class BatchJob(JobRequest):
    """One question of a batch."""

    custom_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class BatchJobJson(BatchJob):
    """One question of a batch, images included."""

    images: list[DataUri | Part] = []


class Defaults(_Asked):
    """What the jobs of a batch say unless they say otherwise; `generation` field by field."""

    model: str | None = None
    tiles: Tiles | None = None
    thumbnail: bool | None = None
    generation: dict[str, Any] | None = None
    webhook: Webhook | None = None
    metadata: Metadata | None = None
    start_within: Seconds | None = None
    run_within: Seconds | None = None
    priority: Literal["high", "normal", "low"] | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


class BatchRequest(_Asked):
    """Many questions, taken in together or not at all; each of `jobs` is read by itself, so that all are judged."""

    jobs: Annotated[list[dict[str, Any]], Field(min_length=1)]
    defaults: Defaults = Defaults()
    webhook: BatchWebhook | None = None
    metadata: Metadata = {}


class BatchJson(BatchRequest):
    """Many questions, images included."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"jobs": [{"custom_id": "a", "prompt": "What is a tile?"}]}]}
    )

    jobs: Annotated[list[BatchJobJson], Field(min_length=1)]  # type: ignore[assignment]  # for the document only


class JobForm(BaseModel):
    """What a person types in a shell."""

    image: list[Annotated[bytes, Field(json_schema_extra={"format": "binary"})]] = []
    prompt: str | None = None
    model: str | None = None
    tiles: Tiles | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    webhook: Url | None = None
    request: JobRequest | None = Field(None, description="instead of the fields above: the JSON, without `images`")


class BatchForm(BaseModel):
    """`request`, and any number of file parts that its jobs name."""

    model_config = ConfigDict(extra="allow")

    request: BatchJson


class WebhookTestRequest(_Asked):
    """Where to send a test."""

    url: Url


class RotateRequest(_Asked):
    """How long the secret before signs too."""

    overlap: Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False)] = 86_400


def read(kind: type[B], value: dict[str, Any]) -> B:
    """Return `value` as a `kind`, or raise `InvalidField`. As JSON, in which pydantic's strictness knows lists."""
    try:
        return kind.model_validate_json(json.dumps(value, ensure_ascii=False), strict=True)
    except ValidationError as error:
        raise of_validation(error.errors(include_url=False, include_context=False, include_input=False)) from error
