"""A line of a batch's file: `{"custom_id", "method", "url", "body"}`, its body that of a call of the endpoint."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from services.intake.openai.parse import CHAT_NAMES, RESPONSE_NAMES, SubmissionBuilder, read_chat, read_response
from services.intake.openai.surface import params_named
from services.intake.submission.json_strict import parse_object
from services.intake.submission.model import Submission
from services.intake.submission.priority import refuse_above
from shared.batches import BatchFile
from shared.errors import InvalidField, Malformed, RequestError, UnsupportedParameter
from shared.settings.roles import IntakeSettings

MAX_CUSTOM_ID_CHARACTERS = 512
_FIELDS = ("custom_id", "method", "url", "body")


class LineRefused(Exception):
    """A line can't become a job. `param` names the field at fault."""

    def __init__(self, error: RequestError, code: str = "") -> None:
        super().__init__(error.detail)
        self.error = error
        self.code = code or error.code
        self.param = error.field


@dataclass(frozen=True)
class Envelope:
    """A line, its body still as it was sent."""

    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """A call that lines may name."""

    names: Mapping[str, str]  #: tileq's fields → OpenAI's parameters
    build: Callable[[SubmissionBuilder, dict[str, Any], IntakeSettings], Awaitable[Submission]]


async def _response(builder: SubmissionBuilder, body: dict[str, Any], settings: IntakeSettings) -> Submission:
    return await builder.of_response(read_response(body, settings))


async def _chat(builder: SubmissionBuilder, body: dict[str, Any], settings: IntakeSettings) -> Submission:
    return await builder.of_chat(read_chat(body, settings))


ENDPOINTS = {
    "/v1/responses": Endpoint(RESPONSE_NAMES, _response),
    "/v1/chat/completions": Endpoint(CHAT_NAMES, _chat),
}


def read_envelope(data: bytes, endpoint: str) -> Envelope:
    """Return what a line asks for. Raises `LineRefused`."""
    try:
        line = parse_object(data)
    except Malformed as error:
        raise LineRefused(error, "invalid_json_line") from error
    for name in line:
        if name not in _FIELDS:
            raise line_refused("unknown_parameter", name[:80], f"unknown field `{name[:80]}`")
    custom_id, body = line.get("custom_id"), line.get("body")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= MAX_CUSTOM_ID_CHARACTERS:
        detail = f"`custom_id` must be a string of 1 to {MAX_CUSTOM_ID_CHARACTERS} characters"
        raise line_refused("invalid_custom_id", "custom_id", detail)
    if line.get("method") != "POST":
        raise line_refused("invalid_method", "method", "`method` must be `POST`")
    if line.get("url") != endpoint:
        raise line_refused("mismatched_endpoint", "url", f"`url` must be the batch's endpoint, `{endpoint}`")
    if not isinstance(body, dict):
        raise line_refused("invalid_body", "body", "`body` must be an object")
    return Envelope(custom_id, body)


async def read_submission(
    envelope: Envelope, file: BatchFile, builder: SubmissionBuilder, settings: IntakeSettings
) -> Submission:
    """Return the job that a line of `file` asks for, checked for form. Raises `LineRefused`."""
    called = ENDPOINTS[file.endpoint]
    try:
        body = _with_priority(envelope.body, file.priority)
        with params_named(called.names):
            submission = await called.build(builder, body, settings)
            refuse_above(file.max_priority, submission.question.priority)
    except RequestError as error:
        raise of_body(error) from error
    return Submission(submission.question, submission.uploads, envelope.custom_id, submission.openai)


def of_body(error: RequestError) -> LineRefused:
    """Return the refusal of a line whose body is at fault. Raises `error` where tileq is: the line may pass later."""
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise error
    error.field = f"body.{error.field}" if error.field else "body"
    return LineRefused(error)


def _with_priority(body: dict[str, Any], priority: str) -> dict[str, Any]:
    """Return `body` with the batch's priority, unless it names one. Raises `InvalidField` for what no line may ask."""
    if body.get("stream"):
        raise UnsupportedParameter("the answers of a batch are not streamed; leave `stream` out", field="stream")
    extras = body.get("tileq")
    if extras is not None and not isinstance(extras, dict):
        raise InvalidField("`tileq` must be an object", field="tileq")
    extras = extras or {}
    if extras.get("webhook") is not None:
        detail = "a line has no webhook; give the batch one, as `tileq.webhook` beside `input_file_id`"
        raise UnsupportedParameter(detail, field="tileq.webhook")
    given = {name: value for name, value in extras.items() if value is not None}
    return body | {"tileq": {"priority": priority} | given}


def line_refused(code: str, param: str, detail: str) -> LineRefused:
    """Return the refusal of a line for its field `param`."""
    return LineRefused(InvalidField(detail, field=param), code)
