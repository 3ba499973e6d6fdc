"""Requests of OpenAI's surface as clients write them, after `unsupported.py` took out what tileq does not have."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.intake.schemas.requests import (
    Headers,
    Metadata,
    NullableModel,
    OneOrEach,
    Payload,
    ResponseWebhook,
    Seconds,
    StrictModel,
    Url,
    Webhook,
    nullable,
)
from services.intake.schemas.validation import worded
from shared.jobs import Priority

Model = Annotated[str, Field(min_length=1, max_length=128)]
MaxTokens = Annotated[int, Field(ge=1)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Detail = Annotated[
    Literal["low", "high", "auto", "original"],
    Field(description="`low` is one tile of the whole image; anything else up to the model's usual 12 tiles"),
]


BatchEvent = Literal["batch.completed", "batch.failed", "batch.expired", "batch.cancelled"]


class TileqOptions(NullableModel):
    """What OpenAI's API has no field for; Python's SDK sends it by `extra_body={"tileq": {…}}`."""

    tiles: OneOrEach | None = Field(None, description="most tiles of each image; overrides `detail`")
    thumbnail: bool = True
    webhook: Webhook | None = None
    start_within: Seconds | None = None
    run_within: Seconds | None = None
    priority: Priority = "normal"


class ResponseOptions(TileqOptions):
    """What OpenAI's API has no field for; Python's SDK sends it by `extra_body={"tileq": {…}}`."""

    webhook: ResponseWebhook | None = None


class _Asked(NullableModel):
    model: Model | None = None
    temperature: Temperature | None = Field(None, description="0, greedy, where it is left out")
    top_p: TopP | None = None
    stream: bool = False
    store: bool = True
    metadata: Metadata = Field(default_factory=dict)
    tileq: TileqOptions = TileqOptions()


class ResponseRequest(_Asked):
    """`POST /v1/responses`."""

    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: MaxTokens | None = None
    previous_response_id: Annotated[str, Field(max_length=100)] | None = None
    background: bool = False
    tileq: ResponseOptions = ResponseOptions()
    text: dict[str, Any] | None = None


class FileBatchWebhook(NullableModel):
    """The webhook of a batch of a file."""

    url: Url
    events: Annotated[list[BatchEvent], Field(min_length=1, max_length=4)] | None = None
    payload: Payload = "full"
    headers: Headers = Field({}, repr=False)


class FileBatchOptions(NullableModel):
    """What OpenAI's API has no field for."""

    webhook: FileBatchWebhook | None = None
    priority: Literal["high", "normal", "low"] = Field(
        "low", description="of lines that name none; within a priority, lines stand behind other jobs"
    )


class OutputExpiry(StrictModel):
    """How long the files of a batch are kept."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class FileBatchRequest(NullableModel):
    """`POST /v1/batches` of a file whose lines are requests, as OpenAI has it."""

    input_file_id: Annotated[str, Field(min_length=1, max_length=100)]
    endpoint: Literal["/v1/responses", "/v1/chat/completions"]
    completion_window: Annotated[
        str,
        Field(
            pattern=r"^[1-9][0-9]{0,5}[smhd]$",
            description="after it, lines that are not answered are given up: `24h`, `30m`, `7d`",
            examples=["24h"],
        ),
        worded("must be a whole number and a unit, `s`, `m`, `h` or `d`: `24h`"),
    ]
    output_expires_after: OutputExpiry | None = None
    metadata: Metadata = Field(default_factory=dict)
    tileq: FileBatchOptions = FileBatchOptions()


class ChatRequest(_Asked):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]
    max_completion_tokens: MaxTokens | None = None
    max_tokens: MaxTokens | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stream_options: dict[str, bool] | None = None
    response_format: dict[str, Any] | None = None


# What follows is for the OpenAPI document only: `content.py` reads items and parts, and says what is wrong with them.


class InputText(NullableModel):
    """Text of a message."""

    type: Literal["input_text", "output_text"]
    text: str


IMAGE_URL = "`data:image/…;base64,…`, or a URL that a worker fetches, where the service allows it"


class InputImage(NullableModel):
    """An image of a user message."""

    type: Literal["input_image"]
    image_url: Annotated[
        str | None,
        Field(description=IMAGE_URL),
    ] = None
    file_id: Annotated[str | None, Field(max_length=100, description="instead: a file of `/v1/files`")] = None
    detail: Detail | None = None


class InputMessage(NullableModel):
    """One message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | InputImage]


class ResponseJson(ResponseRequest):
    """`POST /v1/responses`."""

    model_config = ConfigDict(json_schema_extra=lambda schema: _example(schema, {"input": "What is a tile?"}))
    input: str | list[InputMessage]  # type: ignore[assignment]


class TextPart(NullableModel):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(NullableModel):
    """Where an image comes from."""

    url: Annotated[str, Field(description=IMAGE_URL)]
    detail: Detail | None = None


class ImagePart(NullableModel):
    """An image of a user message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class ChatMessage(NullableModel):
    """One message of the conversation."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[TextPart | ImagePart]


_HELLO = {"messages": [{"role": "user", "content": "What is a tile?"}]}


class ChatJson(ChatRequest):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(json_schema_extra=lambda schema: _example(schema, _HELLO))
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]  # type: ignore[assignment]


class FileForm(BaseModel):
    """The form of `POST /v1/files`."""

    file: Annotated[bytes, Field(json_schema_extra={"format": "binary"})]
    purpose: Annotated[
        Literal["vision", "batch", "user_data"],
        Field(description="`vision`: an image; `batch`: requests as JSON Lines"),
    ]
    anchor: Annotated[Literal["created_at"] | None, Field(alias="expires_after[anchor]")] = None
    seconds: Annotated[
        int | None,
        Field(
            alias="expires_after[seconds]", ge=3600, le=2_592_000, description="30 days of a batch's files, else never"
        ),
    ] = None


def _example(schema: dict[str, Any], value: dict[str, Any]) -> None:
    nullable(schema)
    schema["examples"] = [value]
