"""The events of a job as OpenAI's stream of a response.

`sequence_number` is a position in the answer, so that it means the same on every connection, however the text was cut
into pieces: 0 `response.created`, 1 `response.in_progress`, 2 and 3 the opening of the message, then 3 plus the number
of characters up to the end of a delta. A later attempt of the job counts from `ATTEMPT_STEP` times its number on.
`starting_after` leaves out what lies before, and cuts a delta where it lies within one.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

from services.intake.event_stream import Ended, Event, KeepAlive, Reset, StateChanged, TextAppended
from services.intake.openai.text_follower import TextFollower
from services.intake.rendering import to_json
from shared.jobs import Job
from shared.openai.ids import message_id
from shared.openai.responses import output_of, response_body, status_of
from shared.views import JobBody

ATTEMPT_STEP = 1 << 32
OPENING = 3  #: sequence number behind which the text begins
KEEP_ALIVE = b": keep-alive\n\n"


async def encoded(job: Job, events: AsyncGenerator[Event, None], after: int = -1) -> AsyncIterator[bytes]:
    """Yield the bytes of a stream, from behind sequence number `after` on."""
    stream = ResponseStream(job, after)
    async with aclosing(events) as opened:
        async for event in opened:
            for sent in stream.encode(event):
                yield sent


class ResponseStream:
    """Encodes the events of one job for one client."""

    def __init__(self, job: Job, after: int) -> None:
        self._job = job
        self._after = after
        self._follower = TextFollower(job.id)
        self._attempt = 0
        self._body: JobBody | None = None
        self._created = self._in_progress = self._opened = False

    def encode(self, event: Event) -> Iterator[bytes]:
        """Yield one event as it is sent."""
        match event:
            case KeepAlive():
                yield KEEP_ALIVE
            case StateChanged(job=body):
                yield from self._state(body)
            case TextAppended(text=text, attempt=attempt):
                yield from self._text(text, attempt)
            case Reset():
                self._follower.reset()
            case Ended(job=body):
                yield from self._end(body)

    def _state(self, body: JobBody) -> Iterator[bytes]:
        self._body = body
        if not self._created:
            self._created = True
            first = body.model_copy(update={"state": "queued", "output": None, "error": None, "ended_at": None})
            yield from self._send(0, "response.created", response=response_body(self._job, first))
        if not self._in_progress and body.state == "running":
            yield from self._begin(body)

    def _begin(self, body: JobBody) -> Iterator[bytes]:
        self._in_progress = True
        running = body.model_copy(update={"state": "running", "output": None, "error": None, "ended_at": None})
        yield from self._send(1, "response.in_progress", response=response_body(self._job, running))

    def _text(self, text: str, attempt: int) -> Iterator[bytes]:
        self._attempt = attempt
        yield from self._open()
        if self._resumes_another_attempt:
            return  # what the client has of the answer is void; `response.output_text.done` brings all of it
        start = len(self._follower.sent)
        fresh = self._follower.feed(text)
        known = self._after - self._base - OPENING - start  # characters of it that the client has
        fresh, end = fresh[max(0, known) :], len(self._follower.sent)
        if fresh:
            yield from self._send(
                self._base + OPENING + end, "response.output_text.delta", **self._part(), delta=fresh, logprobs=[]
            )

    def _open(self) -> Iterator[bytes]:
        if self._opened:
            return
        self._opened = True
        if not self._in_progress and self._body is not None:  # its change of state was not seen before its text
            yield from self._begin(self._body)
        message = {
            "id": message_id(self._job.id),
            "type": "message",
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        yield from self._send(2, "response.output_item.added", output_index=0, item=message)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield from self._send(3, "response.content_part.added", **self._part(), part=part)

    def _end(self, body: JobBody) -> Iterator[bytes]:
        if not self._in_progress and body.started_at:
            yield from self._begin(body)
        last = self._base + OPENING + len(body.output.text if body.output else self._follower.sent)
        if body.output is not None:
            yield from self._open()
            (message,) = output_of(body)
            (part,) = message.content
            yield from self._send(last + 1, "response.output_text.done", **self._part(), text=part.text, logprobs=[])
            yield from self._send(last + 2, "response.content_part.done", **self._part(), part=part)
            yield from self._send(last + 3, "response.output_item.done", output_index=0, item=message)
        yield from self._send(last + 4, f"response.{status_of(body)}", response=response_body(self._job, body))

    @property
    def _base(self) -> int:
        return max(0, self._attempt - 1) * ATTEMPT_STEP

    @property
    def _resumes_another_attempt(self) -> bool:
        text_begun = self._after >= 0 and self._after % ATTEMPT_STEP > OPENING
        return text_begun and self._after // ATTEMPT_STEP != max(0, self._attempt - 1)

    def _part(self) -> dict[str, Any]:
        return {"item_id": message_id(self._job.id), "output_index": 0, "content_index": 0}

    def _send(self, number: int, kind: str, **fields: Any) -> Iterator[bytes]:
        if number > self._after:
            data = to_json({"type": kind, "sequence_number": number, **fields})
            yield b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
