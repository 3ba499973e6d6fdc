"""What OpenAI's surface shows of a job: one record, seen as a response or as a chat completion."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from services.intake.openai.ids import chat_id, input_id, message_id, response_id
from shared.conversation import Message, split_at_images, system_of, without_system
from shared.errors import AnswerFailed
from shared.files import File, Purpose
from shared.jobs import Job
from shared.records import JobError, OpenAiOptions, StageTimings, TokenUsage
from shared.requests import Request
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


class DeletedResponse(Body):
    """A response that is gone."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItem(Body):
    """One message of what a response was asked."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["system", "user", "assistant"]
    status: Literal["completed"] = "completed"
    content: list[dict[str, str]]


class InputItemList(Body):
    """A page of what a response was asked."""

    object: Literal["list"] = "list"
    data: list[InputItem]
    first_id: str | None
    last_id: str | None
    has_more: bool


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


class PromptTokensDetails(Body):
    """Tokens of the prompt that were taken from the prefix cache, and those of images."""

    cached_tokens: int
    image_tokens: int


class ChatUsage(Body):
    """Tokens of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ChatMessageBody(Body):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Body):
    """The one answer."""

    index: Literal[0] = 0
    message: ChatMessageBody
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Body):
    """A chat completion, as OpenAI's SDKs read it."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: ChatUsage


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
        created_at=_epoch(body.created_at) or 0,
        completed_at=_epoch(body.ended_at) if status == "completed" else None,
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


def chat_completion(body: JobBody) -> ChatCompletion:
    """Return an ended job as a chat completion. Raises `AnswerFailed`."""
    if body.output is None:
        raise failure_of(body)
    choice = ChatChoice(message=ChatMessageBody(content=body.output.text), finish_reason=body.output.finish_reason)
    return ChatCompletion(
        id=chat_id(body.id),
        created=_epoch(body.created_at) or 0,
        model=body.model,
        choices=[choice],
        usage=chat_usage(body.usage),
    )


def failure_of(body: JobBody) -> AnswerFailed:
    """Return the error of a job that ended without an answer."""
    error = error_of(body) or JobError(code=body.state, message=f"the job was {body.state}")
    return AnswerFailed(error.code, f"{error.message} ({body.id})")


def error_of(body: JobBody) -> JobError | None:
    """Return why a job has no answer; None for one that is not at fault."""
    if body.error is not None or body.state not in ("failed", "expired"):
        return body.error
    return JobError(code=body.state, message="no reason was recorded")


def chat_usage(usage: TokenUsage | None) -> ChatUsage:
    """Return tokens as chat completions name them."""
    counted = usage or TokenUsage()
    return ChatUsage(
        prompt_tokens=counted.prompt_tokens,
        completion_tokens=counted.completion_tokens,
        total_tokens=counted.prompt_tokens + counted.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(
            cached_tokens=counted.cached_tokens, image_tokens=counted.image_tokens
        ),
    )


def input_items(job_id: str, request: Request, image_url: str) -> list[InputItem]:
    """Return what a job was asked, earlier turns included, oldest first; `image_url` has a place `{n}` for a number."""
    items, images = [], iter(range(len(request.images)))
    groups = iter(request.groups)
    instructions = system_of(request.messages)
    if instructions is not None:
        content = [{"type": "input_text", "text": instructions}]
        items.append(InputItem(id=input_id(job_id, 0), role="system", content=content))
    for n, message in enumerate(without_system(request.messages), start=len(items)):
        parts = _parts(message, groups, images, image_url)
        items.append(InputItem(id=input_id(job_id, n), role=message.role, content=parts))
    return items


def page_of(items: Sequence[InputItem], *, after: str | None, limit: int, newest_first: bool) -> InputItemList | None:
    """Return the page behind `after`, None where no item has that id."""
    ordered = list(reversed(items)) if newest_first else list(items)
    if after is not None:
        place = next((n for n, item in enumerate(ordered) if item.id == after), None)
        if place is None:
            return None
        ordered = ordered[place + 1 :]
    data = ordered[:limit]
    return InputItemList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=len(ordered) > limit,
    )


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


def _parts(message: Message, groups: Iterator[int], images: Iterator[int], image_url: str) -> list[dict[str, str]]:
    if message.role != "user":
        return [{"type": "output_text", "text": message.content}]
    first, *rest = split_at_images(message.content)
    content = [{"type": "input_text", "text": first.removesuffix("\n")}] if first.strip() else []
    for text in rest:
        for _ in range(next(groups, 0)):
            url = image_url.format(n=next(images))
            content.append({"type": "input_image", "detail": "auto", "image_url": url})
        if text.strip():
            content.append({"type": "input_text", "text": text.removeprefix("\n").removesuffix("\n")})
    return content


def _response_usage(usage: TokenUsage | None) -> ResponseUsage | None:
    if usage is None:
        return None
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens, image_tokens=usage.image_tokens),
        output_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )


def _epoch(moment: str | None) -> int | None:
    return int(datetime.fromisoformat(moment).timestamp()) if moment else None
