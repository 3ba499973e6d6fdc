"""What OpenAI's surface shows of a job: one record, seen as a response or as a chat completion."""

from collections.abc import Iterator, Sequence
from typing import Literal

from shared.conversation import Message, split_at_images, system_of, without_system
from shared.errors import AnswerFailed, PromptTooLong
from shared.openai.ids import chat_id, input_id
from shared.openai.responses import epoch, error_of
from shared.records import JobError, TokenUsage
from shared.requests import Request
from shared.views import Body, JobBody


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


def chat_completion(body: JobBody) -> ChatCompletion:
    """Return an ended job as a chat completion. Raises `AnswerFailed`."""
    if body.output is None:
        raise failure_of(body)
    choice = ChatChoice(message=ChatMessageBody(content=body.output.text), finish_reason=body.output.finish_reason)
    return ChatCompletion(
        id=chat_id(body.id),
        created=epoch(body.created_at) or 0,
        model=body.model,
        choices=[choice],
        usage=chat_usage(body.usage),
    )


def failure_of(body: JobBody) -> AnswerFailed:
    """Return the error of a job that ended without an answer: 400 where its own image or prompt is the reason."""
    error = error_of(body) or JobError(code=body.state, message=f"the job was {body.state}")
    at_fault = not error.retryable and (error.image is not None or error.code == PromptTooLong.code)
    return AnswerFailed(error.code, f"{error.message} ({body.id})", status=400 if at_fault else 500)


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
