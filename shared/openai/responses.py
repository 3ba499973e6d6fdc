"""A job as OpenAI's response: the body of `GET /v1/responses/{id}`, and the `data` of its webhooks."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from shared.jobs import Job
from shared.openai.ids import message_id, response_id
from shared.records import JobError, OpenAiOptions, StageTimings, TokenUsage
from shared.views import Body, JobBody, Moment

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_STATUS: Mapping[str, Status] = {
    "queued": "queued",
    "running": "in_progress",
    "succeeded": "completed",
    "failed": "failed",
    "expired": "failed",
    "cancelled": "cancelled",
}
#: Options of a job that was made on the native surface.
_NATIVE = OpenAiOptions(api="responses", background=True)
Constant = Annotated[Any, Field(description="always this value; see the README's table of what is served")]


class ResponseError(Body):
    """Why a response has failed; the codes are those of a job's `error`."""

    code: str
    message: str


class IncompleteDetails(Body):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class OutputText(Body):
    """Generated text."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[Any] = Field(default_factory=list)


class OutputMessage(Body):
    """The answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class InputTokensDetails(Body):
    """Tokens of the prompt that were taken from the prefix cache, and those of images."""

    cached_tokens: int
    cache_write_tokens: int = 0
    image_tokens: int


class OutputTokensDetails(Body):
    """Always 0: the models do not reason apart from the answer."""

    reasoning_tokens: int = 0


class ResponseUsage(Body):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails = OutputTokensDetails()
    total_tokens: int


class TileqFields(Body):
    """What only tileq tells."""

    job: Annotated[str, Field(description="the same job under `/v1/jobs`")]
    queue_position: int | None
    attempt: int
    expires_at: Moment | None
    timings: StageTimings | None


class ResponseBody(Body):
    """A response, as OpenAI's SDKs read it."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    model: str
    output: list[OutputMessage]
    previous_response_id: str | None
    temperature: float | None
    top_p: float | None
    store: bool
    usage: ResponseUsage | None
    metadata: dict[str, str]
    text: Annotated[dict[str, Any], Field(description="the `format` that was asked for")]
    tileq: TileqFields
    frequency_penalty: Constant = 0
    presence_penalty: Constant = 0
    max_tool_calls: Constant = None
    parallel_tool_calls: Constant = True
    prompt_cache_key: Constant = None
    reasoning: Constant = None
    safety_identifier: Constant = None
    service_tier: Constant = "default"
    tool_choice: Constant = "auto"
    tools: Constant = []  # noqa: RUF012
    top_logprobs: Constant = 0
    truncation: Constant = "disabled"


def status_of(body: JobBody) -> Status:
    """Return the status of a response."""
    cut = body.output is not None and body.output.finish_reason == "length"
    return "incomplete" if cut else _STATUS[body.state]


def response_body(job: Job, body: JobBody) -> ResponseBody:
    """Return `job` as a response; `body` tells its present state."""
    options, status = job.openai or _NATIVE, status_of(body)
    native = job.openai is None
    error = error_of(body)
    return ResponseBody(
        id=response_id(body.id),
        created_at=epoch(body.created_at) or 0,
        completed_at=epoch(body.ended_at) if status == "completed" else None,
        status=status,
        background=options.background,
        error=ResponseError(code=error.code, message=error.message) if error else None,
        incomplete_details=IncompleteDetails(reason="max_output_tokens") if status == "incomplete" else None,
        instructions=options.instructions,
        max_output_tokens=options.max_output_tokens,
        model=body.model,
        output=output_of(body),
        previous_response_id=response_id(body.parent) if body.parent else None,
        temperature=None if native else options.temperature,
        top_p=None if native else options.top_p,
        store=options.store,
        usage=_response_usage(body.usage) if body.state == "succeeded" else None,
        metadata=body.metadata,
        text={"format": options.text_format or {"type": "text"}},
        tileq=TileqFields(
            job=body.id,
            queue_position=body.queue_position,
            attempt=body.attempt,
            expires_at=body.expires_at,
            timings=body.timings,
        ),
    )


def output_of(body: JobBody) -> list[OutputMessage]:
    """Return the answer of a response, empty where there is none."""
    if body.output is None:
        return []
    status: Literal["completed", "incomplete"] = "incomplete" if body.output.finish_reason == "length" else "completed"
    return [OutputMessage(id=message_id(body.id), status=status, content=[OutputText(text=body.output.text)])]


def error_of(body: JobBody) -> JobError | None:
    """Return why a job has no answer; None for one that is not at fault."""
    if body.error is not None or body.state not in ("failed", "expired"):
        return body.error
    return JobError(code=body.state, message="no reason was recorded")


def epoch(moment: str | None) -> int | None:
    """Return RFC 3339 as seconds since the epoch."""
    return int(datetime.fromisoformat(moment).timestamp()) if moment else None


def _response_usage(usage: TokenUsage | None) -> ResponseUsage | None:
    if usage is None:
        return None
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens, image_tokens=usage.image_tokens),
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
