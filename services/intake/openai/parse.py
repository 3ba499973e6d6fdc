"""A request body of OpenAI's surface becomes a `Submission`, the same that `/v1/jobs` makes."""

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from services.intake.clients.model_registry import ModelRegistry
from services.intake.openai import unsupported
from services.intake.openai.content import Conversation, read_input, read_messages
from services.intake.openai.images import resolve, tiles_of
from services.intake.openai.text_format import json_schema
from services.intake.schemas.openai import ChatRequest, ResponseRequest, TileqOptions
from services.intake.schemas.requests import JobRequest, without_nulls, without_webhook_nulls
from services.intake.schemas.validation import read
from services.intake.submission.model import Submission
from services.intake.uploads import ImageSource
from shared.errors import InvalidField, UnsupportedParameter
from shared.openai.ids import job_id
from shared.records import OpenAiOptions
from shared.requests import Generation
from shared.settings.roles import IntakeSettings

#: tileq's fields → OpenAI's parameters, for errors.
_NAMES = {
    "generation.temperature": "temperature",
    "generation.top_p": "top_p",
    "generation.stop": "stop",
    "generation.seed": "seed",
    "parent": "previous_response_id",
    **{name: f"tileq.{name}" for name in TileqOptions.model_fields},
}
RESPONSE_NAMES = _NAMES | {
    "generation.json_schema": "text.format.schema",
    "generation.max_new_tokens": "max_output_tokens",
    "prompt": "input",
    "messages": "input",
    "images": "input",
}
CHAT_NAMES = _NAMES | {
    "generation.json_schema": "response_format.json_schema.schema",
    "generation.max_new_tokens": "max_completion_tokens",
    "prompt": "messages",
    "images": "messages",
}


R = TypeVar("R", ResponseRequest, ChatRequest)


@dataclass(frozen=True)
class Asked(Generic[R]):
    """A request whose images were decoded. It keeps none of their base64, so that a call that waits holds no body."""

    request: R  #: without its texts and images
    conversation: Conversation
    uploads: list[ImageSource]


def _response_request(body: dict[str, Any]) -> ResponseRequest:
    """Return the request of `POST /v1/responses`. Raises `InvalidField` or `UnsupportedParameter`."""
    body = _read_tileq(without_nulls(unsupported.without_unsupported(body, unsupported.RESPONSES), ResponseRequest))
    asked = read(ResponseRequest, body)
    text = dict(asked.text or {})
    text.pop("format", None)
    for name, value in text.items():
        if (name, value) != ("verbosity", "medium") and value is not None:
            raise UnsupportedParameter(f"`text.{name}` is not supported", field=f"text.{name}")
    if asked.background and not asked.store:
        raise InvalidField("`background` needs `store`: what is not stored can't be read later", field="store")
    return asked


def _chat_request(body: dict[str, Any]) -> ChatRequest:
    """Return the request of `POST /v1/chat/completions`. Raises `InvalidField` or `UnsupportedParameter`."""
    asked = read(
        ChatRequest, _read_tileq(without_nulls(unsupported.without_unsupported(body, unsupported.CHAT), ChatRequest))
    )
    if asked.stream_options is not None and not asked.stream:
        raise InvalidField("`stream_options` is for `stream`: true", field="stream_options")
    for name in asked.stream_options or {}:
        if name not in ("include_usage", "include_obfuscation"):
            raise InvalidField(f"unknown field `stream_options.{name}`", field=f"stream_options.{name}")
    return asked


def read_response(body: dict[str, Any], settings: IntakeSettings) -> Asked[ResponseRequest]:
    """Read the body of `POST /v1/responses`. Raises `RequestError`."""
    asked = _response_request(body)
    conversation = read_input(asked.input, asked.instructions)
    return Asked(asked.model_copy(update={"input": ""}), *_resolved(conversation, settings))


def read_chat(body: dict[str, Any], settings: IntakeSettings) -> Asked[ChatRequest]:
    """Read the body of `POST /v1/chat/completions`. Raises `RequestError`."""
    asked = _chat_request(body)
    conversation = read_messages(asked.messages)
    return Asked(asked.model_copy(update={"messages": []}), *_resolved(conversation, settings))


class SubmissionBuilder:
    """Builds the job that a request asks for. Every method raises `RequestError`."""

    def __init__(self, models: ModelRegistry) -> None:
        self._models = models

    async def of_response(self, parsed: Asked[ResponseRequest]) -> Submission:
        """Return the job of a `POST /v1/responses`."""
        asked = parsed.request
        text_format = (asked.text or {}).get("format")
        options = OpenAiOptions(
            api="responses",
            text_format=text_format,
            background=asked.background,
            store=asked.store,
            instructions=asked.instructions,
            max_output_tokens=asked.max_output_tokens,
            temperature=asked.temperature or 0,
            top_p=asked.top_p or 1,
        )
        parent = job_id(asked.previous_response_id) if asked.previous_response_id else None
        schema = json_schema(text_format, "text.format")
        fields = {"parent": parent, "generation": {"max_new_tokens": asked.max_output_tokens, "json_schema": schema}}
        return await self._build(parsed, fields, options)

    async def of_chat(self, parsed: Asked[ChatRequest]) -> Submission:
        """Return the job of a `POST /v1/chat/completions`."""
        asked = parsed.request
        most = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
        options = OpenAiOptions(
            api="chat.completions",
            store=asked.store,
            max_output_tokens=most,
            temperature=asked.temperature or 0,
            top_p=asked.top_p or 1,
        )
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop
        schema = json_schema(asked.response_format, "response_format")
        fields = {"generation": {"max_new_tokens": most, "stop": stop, "seed": asked.seed, "json_schema": schema}}
        return await self._build(parsed, fields, options)

    async def _build(
        self,
        parsed: Asked[ResponseRequest] | Asked[ChatRequest],
        fields: dict[str, Any],
        options: OpenAiOptions,
    ) -> Submission:
        asked, conversation = parsed.request, parsed.conversation
        extras = asked.tileq.model_dump(exclude_unset=True, exclude_none=True, exclude={"webhook"})
        if "tiles" not in extras and (tiles := tiles_of(conversation.images, await self._models.get(asked.model))):
            extras["tiles"] = tiles
        sampling = {"temperature": asked.temperature, "top_p": asked.top_p}
        question = fields | {
            "model": asked.model,
            "messages": conversation.messages(),
            "generation": without_nulls(fields["generation"] | sampling, Generation),
            "metadata": asked.metadata,
            **extras,
        }
        made = read(JobRequest, without_nulls(question, JobRequest))
        made = made.model_copy(update={"webhook": asked.tileq.webhook})  # it was read, with the events of its surface
        return Submission(made, parsed.uploads, openai=options)


def _resolved(conversation: Conversation, settings: IntakeSettings) -> tuple[Conversation, list[ImageSource]]:
    """Return the bytes or places of the images, and the conversation without their URLs."""
    uploads = resolve(conversation.images, settings)
    return replace(conversation, images=[replace(image, url=None) for image in conversation.images]), uploads


def _read_tileq(body: dict[str, Any]) -> dict[str, Any]:
    """Return `body` without nulls in its `tileq`."""
    extras = body.get("tileq")
    if not isinstance(extras, dict):
        return body
    return body | {"tileq": without_webhook_nulls(without_nulls(extras, TileqOptions))}
