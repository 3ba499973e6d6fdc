"""Requests as clients write them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from shared.conversation import Message
from shared.jobs import Priority
from shared.requests import Generation
from shared.webhooks.headers import MAX_HEADERS, headers_problem

JobEvent = Literal["job.started", "job.succeeded", "job.failed", "job.cancelled", "job.expired"]
ResponseEvent = Literal["response.completed", "response.failed", "response.incomplete", "response.cancelled"]
ResponseEvents = Annotated[list[JobEvent | ResponseEvent], Field(min_length=1, max_length=9)]
Payload = Literal["full", "thin"]
Tiles = Annotated[int, Field(ge=1, le=40)]
OneOrEach = Annotated[
    Annotated[Tiles, Tag("number")] | Annotated[list[Tiles], Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "number"),
]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16, description="returned with the job everywhere"),
]
Url = Annotated[
    str,
    Field(min_length=1, max_length=2048, examples=["https://example.org/hook"], json_schema_extra={"format": "uri"}),
]
DataUri = Annotated[
    str,
    Field(
        description="`data:image/jpeg;base64,…`; the content decides, not the type it names",
        pattern="^\\s*[dD][aA][tT][aA]:[^,]*,",
    ),
]


class StrictModel(BaseModel):
    """A request body: unknown fields and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def nullable(schema: dict[str, Any]) -> None:
    """Document that null stands for an absent field."""
    for name, property in schema["properties"].items():
        if "default" in property and {"type": "null"} not in property.get("anyOf", []):
            kept = {key: property.pop(key) for key in ("default", "description", "title") if key in property}
            schema["properties"][name] = {"anyOf": [property, {"type": "null"}], **kept}


class NullableModel(StrictModel):
    """A request body in which null stands for an absent field, as many encoders write it.

    `without_nulls` drops them before the body is validated: pydantic's own hooks would take strict JSON from it.
    """

    model_config = ConfigDict(json_schema_extra=nullable)


def without_nulls(value: Mapping[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """Return `value` without the fields of `schema` that are null."""
    return {name: field for name, field in value.items() if field is not None or name not in schema.model_fields}


def without_webhook_nulls(body: dict[str, Any]) -> dict[str, Any]:
    """Return `body`, its `webhook` without fields that are null."""
    webhook = body.get("webhook")
    return body | {"webhook": without_nulls(webhook, Webhook)} if isinstance(webhook, dict) else body


def _sendable(headers: dict[str, str]) -> dict[str, str]:
    if problem := headers_problem(headers):
        raise ValueError(problem)
    return headers


Headers = Annotated[
    dict[str, str],
    AfterValidator(_sendable),
    Field(
        description="sent with every webhook, such as a token for a gateway; stored, never shown or logged",
        max_length=MAX_HEADERS,
        examples=[{"Authorization": "Bearer …"}],
    ),
]


class Webhook(NullableModel):
    """The webhook of a job."""

    url: Url
    events: Annotated[list[JobEvent], Field(min_length=1, max_length=5)] | None = None
    payload: Payload = "full"
    headers: Headers = Field({}, repr=False)


class ResponseWebhook(Webhook):
    """The webhook of a response: events by OpenAI's names, or the native ones."""

    events: ResponseEvents | None = None  # type: ignore[assignment]  # a wider list, to which nothing is appended


class BatchWebhook(NullableModel):
    """The webhook of a batch."""

    url: Url
    events: Annotated[list[Literal["batch.ended"]], Field(min_length=1, max_length=1)] | None = None
    payload: Payload = "full"
    headers: Headers = Field({}, repr=False)


class FileRef(StrictModel):
    """An image that was uploaded to `/v1/files`."""

    file_id: Annotated[str, Field(max_length=100)]


class UrlRef(StrictModel):
    """An image that a worker fetches, where the service allows it."""

    url: Annotated[
        str,
        Field(
            min_length=1,
            max_length=2048,
            examples=["https://example.org/street.jpg"],
            json_schema_extra={"format": "uri"},
        ),
    ]


class PartRef(StrictModel):
    """A file part of the same multipart body."""

    part: Annotated[str, Field(min_length=1, max_length=256)]


class _Question(NullableModel):
    model: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    prompt: Annotated[str, Field(description="the text of a single turn")] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)] | None = None
    parent: Annotated[str, Field(max_length=100)] | None = None
    tiles: OneOrEach | None = Field(None, description="most tiles of each image; one number, or one for each")
    thumbnail: bool = True
    generation: Generation = Generation()
    webhook: Webhook | None = None
    metadata: Metadata = {}
    start_within: Seconds | None = None
    run_within: Seconds | None = None
    priority: Priority = "normal"

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("send either `prompt` or `messages`, and only one of them")
        return self

    def turns(self) -> tuple[Message, ...]:
        """The messages of the conversation, also where `prompt` holds the only one."""
        return tuple(self.messages or [Message(role="user", content=self.prompt or "")])


class JobRequest(_Question):
    """One question. In a multipart body its images are file parts."""


def _example(value: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def extend(schema: dict[str, Any]) -> None:
        nullable(schema)
        schema["examples"] = [value]

    return extend


def _generation(schema: dict[str, Any]) -> None:
    length = schema["properties"].pop("max_new_tokens")  # null could mean the default, or no limit
    nullable(schema)
    schema["properties"]["max_new_tokens"] = length


class GenerationJson(Generation):
    """How the answer is decoded; the names are those of transformers' GenerationConfig. `temperature` 0 is greedy."""

    model_config = ConfigDict(json_schema_extra=_generation)

    do_sample: Annotated[bool | None, Field(description="false: greedy; true: `temperature` 1 unless it is set")] = None


class JobJson(_Question):
    """One question, images included."""

    model_config = ConfigDict(json_schema_extra=_example({"prompt": "What is a tile?"}))

    images: list[DataUri | FileRef | UrlRef] = []
    generation: GenerationJson = GenerationJson()


class BatchJob(JobRequest):
    """One question of a batch."""

    custom_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None


class BatchJobJson(BatchJob):
    """One question of a batch, images included."""

    images: list[DataUri | FileRef | PartRef | UrlRef] = []
    generation: GenerationJson = GenerationJson()


class Defaults(NullableModel):
    """Fields of every job of a batch that does not set them itself; `generation` field by field."""

    model: str | None = None
    tiles: Tiles | None = None
    thumbnail: bool | None = None
    generation: dict[str, Any] | None = None
    webhook: Webhook | None = None
    metadata: Metadata | None = None
    start_within: Seconds | None = None
    run_within: Seconds | None = None
    priority: Priority | None = None
    prompt: str | None = None
    messages: list[Message] | None = None


class BatchRequest(NullableModel):
    """Many questions, accepted together or not at all. Each of `jobs` is read by itself, so that all are judged."""

    jobs: Annotated[list[dict[str, Any]], Field(min_length=1)]
    defaults: Defaults = Defaults()
    webhook: BatchWebhook | None = None
    metadata: Metadata = {}


class BatchJson(BatchRequest):
    """Many questions, images included."""

    model_config = ConfigDict(json_schema_extra=_example({"jobs": [{"custom_id": "a", "prompt": "What is a tile?"}]}))

    jobs: Annotated[list[BatchJobJson], Field(min_length=1)]  # type: ignore[assignment]  # for the document only


class JobForm(BaseModel):
    """The form fields of a job."""

    image: list[Annotated[bytes, Field(json_schema_extra={"format": "binary"})]] = []
    prompt: str | None = None
    model: str | None = None
    tiles: Tiles | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    webhook: Url | None = None
    request: JobRequest | None = Field(None, description="instead of the fields above: the JSON, without `images`")


class BatchForm(BaseModel):
    """`request`, and any number of file parts that its jobs refer to."""

    model_config = ConfigDict(extra="allow")

    request: BatchJson


class WebhookTestRequest(NullableModel):
    """The URL to send a test to."""

    url: Url
    headers: Headers = Field({}, repr=False)


class RotateRequest(StrictModel):
    """Seconds for which the previous secret also signs."""

    overlap: Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False)] = 86_400
