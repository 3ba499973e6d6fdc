"""A job as typed events, in order, until it ends. A route turns them into bytes.

    StateChanged   the job without its output: at first, and whenever it changed
    TextAppended   a piece of text; the pieces since the last Reset concatenate to the output's text
    Reset          the text so far is void: a new attempt began, or part of the stream is lost
    Ended          the job, for good

Each event carries the position in the delta stream up to which everything was delivered. A stream that resumes behind
a position reads what lies before it again, silently, to know what text the client has.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from services.intake.clients.changes import Changes, Subscription
from services.intake.clients.delta_reader import FIRST, DeltaReader, DeltaSubscription, Entry
from services.intake.metrics import STREAMS
from services.intake.queries import JobQueries
from shared import events
from shared.errors import NotFound, Overloaded, RequestError
from shared.jobs import Job
from shared.views import JobBody, job_body

KEEPALIVE_S = 15.0  #: of silence after which a client is sent something


@dataclass(frozen=True)
class StateChanged:
    """The job has changed."""

    position: str
    job: JobBody


@dataclass(frozen=True)
class TextAppended:
    """A piece of text was generated."""

    position: str
    text: str
    attempt: int = 0  #: of the job, that generated it


@dataclass(frozen=True)
class Reset:
    """The text so far is void."""

    position: str


@dataclass(frozen=True)
class Ended:
    """The job has ended."""

    position: str
    job: JobBody


@dataclass(frozen=True)
class KeepAlive:
    """Nothing has happened for `KEEPALIVE_S`."""


Event = StateChanged | TextAppended | Reset | Ended | KeepAlive


@dataclass
class DeltaAssembler:
    """The text that a client has, from the deltas of one attempt at a time. Yields None for a reset."""

    attempt: int = 0
    text: str = ""
    broken: bool = False  #: a piece is missing; nothing more is yielded until another attempt, or the end

    def feed(self, delta: events.TextDelta) -> Iterator[str | None]:
        """Yield the pieces and resets that a client gets for `delta`."""
        if delta.attempt < self.attempt:
            return
        if delta.attempt > self.attempt:
            if self.text:
                yield None
            self.attempt, self.text, self.broken = delta.attempt, "", False
        if self.broken or not delta.text:
            return
        if delta.offset != len(self.text):
            if self.text:
                yield None
            self.text, self.broken = "", True
            return
        self.text += delta.text
        yield delta.text

    def reconcile(self, text: str, resumed: bool) -> Iterator[str | None]:
        """Yield what makes the client's text the final one; a `resumed` client may have had the rest already."""
        if not text.startswith(self.text) or (resumed and text != self.text):
            yield None
            self.text = ""
        if rest := text[len(self.text) :]:
            yield rest
        self.text = text


@dataclass
class _Progress:
    """What one client has been sent."""

    position: str
    resumed: bool
    assembler: DeltaAssembler = field(default_factory=DeltaAssembler)
    shown: JobBody | None = None

    def state(self, job: Job) -> Iterator[Event]:
        body = job_body(job, show_output=False)
        if body != self.shown:
            self.shown = body
            yield StateChanged(self.position, body)

    def entries(self, entries: Sequence[Entry]) -> Iterator[Event]:
        for id, fields in entries:
            self.position = id
            yield from self._pieces(self.assembler.feed(events.TextDelta.from_entry(fields)))

    def end(self, body: JobBody, attempt: int) -> Iterator[Event]:
        if body.output is not None:
            self.assembler.attempt = attempt
            yield from self._pieces(self.assembler.reconcile(body.output.text, self.resumed))
        yield Ended(self.position, body)

    def _pieces(self, pieces: Iterator[str | None]) -> Iterator[Event]:
        for piece in pieces:
            yield Reset(self.position) if piece is None else TextAppended(self.position, piece, self.assembler.attempt)


class EventStreams:
    """Opens streams, at most `max_streams` at a time."""

    def __init__(self, queries: JobQueries, changes: Changes, deltas: DeltaReader, *, max_streams: int) -> None:
        self._queries = queries
        self._changes = changes
        self._deltas = deltas
        self._max_streams = max_streams
        self._open = 0

    def refuse_if_full(self) -> None:
        """Raise `Overloaded` where no further stream can be opened."""
        if self._open >= self._max_streams:
            detail = f"{self._open} event streams are open; at most {self._max_streams} are allowed"
            raise Overloaded(f"{detail}. Poll with `?wait=` instead", retry_after=5)

    async def stream(self, job: Job, after: str = "") -> AsyncGenerator[Event, None]:
        """Yield the events of `job` for a client that has everything up to the position `after`."""
        progress = _Progress(after or FIRST, bool(after))
        with self._counted(), self._changes.watch(job.id) as changes:
            if progress.position != FIRST and not await self._recall(job.id, progress):
                yield Reset(progress.position)
            for event in progress.state(job):
                yield event
            with self._deltas.subscribe(job.id, progress.position, changes.interrupt) as deltas:
                async for event in self._follow(job, progress, changes, deltas):
                    yield event

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._open += 1
        STREAMS.set(self._open)
        try:
            yield
        finally:
            self._open -= 1
            STREAMS.set(self._open)

    async def _follow(
        self, job: Job, progress: _Progress, changes: Subscription, deltas: DeltaSubscription
    ) -> AsyncIterator[Event]:
        silent_since = time.monotonic()
        while not job.state.terminal and not changes.closed:
            changed = await changes.changed(KEEPALIVE_S)
            found = list(progress.entries(deltas.take()))
            if changed:
                try:
                    job = await self._queries.get(job.tenant, job.id)
                except NotFound:  # it was deleted
                    return
                except RequestError:  # the store does not answer; the job stays as it was
                    pass
                found += progress.state(job)
            if not found and time.monotonic() - silent_since >= KEEPALIVE_S:
                found = [KeepAlive()]
            for event in found:
                yield event
                silent_since = time.monotonic()
        if job.state.terminal:
            for event in progress.entries(deltas.take()):
                yield event
            async for event in self._end(job, progress):
                yield event

    async def _end(self, job: Job, progress: _Progress) -> AsyncIterator[Event]:
        try:
            rest = await self._deltas.range(job.id, f"({progress.position}", "+")
        except RedisError:
            rest = []  # its text is in the output
        for event in progress.entries(rest):
            yield event
        try:
            (body,) = await self._queries.bodies([job])
        except RequestError:
            return  # the client reconnects, with its position
        for event in progress.end(body, job.attempt):
            yield event

    async def _recall(self, id: str, progress: _Progress) -> bool:
        """Learn what text the client has; False where that is no longer known."""
        after = progress.position
        try:
            before = await self._deltas.range(id, "-", after)
        except RedisError:
            before = []
        for _ in progress.entries(before):
            pass
        known = bool(before) and progress.position == after and not progress.assembler.broken
        if not known:
            progress.assembler = DeltaAssembler(progress.assembler.attempt, broken=True)
        progress.position = after
        return known
