"""The events of a job as OpenAI's stream of chat completion chunks, closed by `[DONE]`."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from services.intake.event_stream import Ended, Event, KeepAlive, Reset, StateChanged, TextAppended
from services.intake.openai.response_stream import KEEP_ALIVE
from services.intake.openai.surface import envelope
from services.intake.openai.text_follower import TextFollower
from services.intake.openai.views import chat_usage, failure_of
from services.intake.rendering import to_json
from shared.errors import AnswerFailed
from shared.jobs import Job
from shared.openai.ids import chat_id
from shared.views import JobBody

DONE = b"data: [DONE]\n\n"
DIVERGED = "the attempt that wrote this text was lost, and the next one answered otherwise; ask again"


async def encoded(job: Job, events: AsyncGenerator[Event, None], *, include_usage: bool) -> AsyncIterator[bytes]:
    """Yield the bytes of a stream."""
    stream = ChatStream(job, include_usage=include_usage)
    async with aclosing(events) as opened:
        async for event in opened:
            for sent in stream.encode(event):
                yield sent


class ChatStream:
    """Encodes the events of one job for one client."""

    def __init__(self, job: Job, *, include_usage: bool) -> None:
        self._job = job
        self._include_usage = include_usage
        self._follower = TextFollower(job.id)
        self._opened = False

    def encode(self, event: Event) -> Iterator[bytes]:
        """Yield one event as it is sent."""
        match event:
            case KeepAlive():
                yield KEEP_ALIVE
            case StateChanged() if not self._opened:
                self._opened = True
                yield self._chunk({"role": "assistant", "content": "", "refusal": None})
            case TextAppended(text=text):
                if fresh := self._follower.feed(text):
                    yield self._chunk({"content": fresh})
            case Reset():
                self._follower.reset()
            case Ended(job=body):
                yield from self._end(body)

    def _end(self, body: JobBody) -> Iterator[bytes]:
        if body.output is None:
            yield _data(envelope(failure_of(body)))
            return
        if self._follower.diverged:
            yield _data(envelope(AnswerFailed("answer_diverged", f"{DIVERGED} ({body.id})")))
            return
        yield self._chunk({}, body.output.finish_reason)
        if self._include_usage:
            yield _data(self._frame() | {"choices": [], "usage": chat_usage(body.usage)})
        yield DONE

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return _data(self._frame() | {"choices": [choice]} | usage)

    def _frame(self) -> dict[str, Any]:
        return {
            "id": chat_id(self._job.id),
            "object": "chat.completion.chunk",
            "created": int(self._job.created),
            "model": self._job.model,
        }


def _data(chunk: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % to_json(chunk)
