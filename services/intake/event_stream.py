"""`GET /v1/jobs/{id}/events`: a job as it happens, over server-sent events.

    state   the job without its output, at first and whenever it changed
    delta   a piece of text; all since the last `reset` concatenate to `output.text`
    reset   what was streamed so far is void: a new attempt began, or some of the stream is lost
    end     the job

Ids are `{entry of the delta stream}/{n}`; `Last-Event-ID` resumes behind that entry, and what lies before it is read
again, silently, to know what the client has.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.intake.clients.changes import Changes, Watch
from services.intake.clients.storage import Storage
from services.intake.desk import Desk
from services.intake.metrics import STREAMS
from services.intake.schemas.responses import dump
from shared import transitions
from shared.errors import Overloaded, RequestError, ResultLost
from shared.events import TextDelta, stream_key
from shared.jobs import Job, State
from shared.views import job_view

QUIET = 15.0  #: seconds after which a comment keeps the line open
BLOCK = 1000  #: milliseconds that one read of the delta stream waits
PAUSE = 1.0  #: seconds before the delta stream is tried again after an error
START = "0-0"

Entry = tuple[str, dict[str, str]]


@dataclass
class Told:
    """What a client has been told of the text: pure bookkeeping."""

    attempt: int = 0
    text: str = ""
    broken: bool = False  #: a piece is missing; nothing more is told until another attempt, or the end

    def hear(self, delta: TextDelta) -> Iterator[tuple[str, dict[str, Any]]]:
        """Take a delta in; yield the events that the client is to get for it."""
        if delta.attempt < self.attempt:
            return
        if delta.attempt > self.attempt:
            if self.text:
                yield "reset", {}
            self.attempt, self.text, self.broken = delta.attempt, "", False
        if self.broken or not delta.text:
            return
        if delta.offset != len(self.text):
            if self.text:
                yield "reset", {}
            self.text, self.broken = "", True
            return
        self.text += delta.text
        yield "delta", {"text": delta.text}

    def settle(self, text: str, unsure: bool) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what makes the client's text the final one; `unsure`: it may have been told the rest already."""
        if not text.startswith(self.text) or (unsure and text != self.text):
            yield "reset", {}
            self.text = ""
        if rest := text[len(self.text) :]:
            yield "delta", {"text": rest}
        self.text = text


@dataclass
class Teller:
    """One client's line: numbers the events."""

    entry: str
    resumed: bool
    told: Told = field(default_factory=Told)
    shown: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    def event(self, name: str, data: Any) -> bytes:
        """Return one event as it is sent."""
        self.number += 1
        return b"event: %s\nid: %s/%d\ndata: %s\n\n" % (name.encode(), self.entry.encode(), self.number, dump(data))

    def state(self, job: Job) -> Iterator[bytes]:
        """Yield a `state` event if the client does not know it yet."""
        view = job_view(job) | {"output": None}
        if view != self.shown:
            self.shown = view
            yield self.event("state", view)

    def entries(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Yield the events for new entries of the delta stream."""
        for id, fields in entries:
            self.entry = id
            for name, data in self.told.hear(TextDelta.read(fields)):
                yield self.event(name, data)

    def end(self, job: Job, output: dict[str, Any] | None) -> Iterator[bytes]:
        """Yield the last events."""
        if output is not None:
            for name, data in self.told.settle(str(output["text"]), self.resumed):
                yield self.event(name, data)
        yield self.event("end", job_view(job, output))


class Streams:
    """Opens lines, as many as the settings allow."""

    def __init__(self, desk: Desk, storage: Storage, changes: Changes, client: "Redis", *, most: int) -> None:
        self._desk = desk
        self._storage = storage
        self._changes = changes
        self._client = client
        self._prefix = desk.store.prefix
        self._most = most
        self._open = 0
        self._readers: set[asyncio.Task[None]] = set()

    async def forget(self, id: str) -> None:
        """Remove the deltas of a deleted job; what is not reached ends by itself after an hour."""
        try:
            await self._client.delete(stream_key(self._prefix, id))
        except RedisError:
            return

    def refuse_if_full(self) -> None:
        """Raise `Overloaded` where no further line can be opened."""
        if self._open >= self._most:
            detail = f"{self._most} event streams are open, which is the most; poll with `?wait=` instead"
            raise Overloaded(detail, retry_after=5)

    async def tell(self, job: Job, last: str) -> AsyncIterator[bytes]:
        """Yield everything that a client who knows all up to `last` is to be told of `job`."""
        with self._counted(), self._changes.watch(job.id) as watch:
            yield b"retry: 2000\n\n"
            teller = Teller(last or START, bool(last))
            if teller.entry != START and not await self._recalled(job.id, teller):
                yield teller.event("reset", {})
            for event in teller.state(job):
                yield event
            async for event in self._follow(job, teller, watch):
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

    async def _follow(self, job: Job, teller: Teller, watch: Watch) -> AsyncIterator[bytes]:
        news: asyncio.Queue[list[Entry]] = asyncio.Queue()
        stopped = asyncio.Event()
        reader = asyncio.create_task(self._read(job.id, teller.entry, news, watch, stopped))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        quiet_since = time.monotonic()
        try:
            while not job.state.terminal and not watch.closed:
                heard = await watch.changed(QUIET)
                sent = list(_drained(news, teller))
                if heard:
                    found = await self._job(job)
                    if found is None:
                        return
                    job = found
                    sent += teller.state(job)
                for event in sent:
                    yield event
                if sent:
                    quiet_since = time.monotonic()
                elif time.monotonic() - quiet_since >= QUIET:
                    yield b": still here\n\n"
                    quiet_since = time.monotonic()
        finally:
            stopped.set()
            reader.cancel()  # redis-py may miss it in the middle of a read; then the flag ends it, and nobody waits
        if job.state.terminal:
            for event in _drained(news, teller):
                yield event
            async for event in self._end(job, teller):
                yield event

    async def _job(self, job: Job) -> Job | None:
        """The job as it is now, None if it is gone; while the store does not answer, as it was."""
        try:
            return await self._desk.run(transitions.read_job(job.tenant, job.id))
        except RequestError:
            return job

    async def _end(self, job: Job, teller: Teller) -> AsyncIterator[bytes]:
        try:
            for event in teller.entries(await self._range(job.id, f"({teller.entry}", "+")):
                yield event
        except RedisError:
            pass  # what it would have told is in the output
        output = None
        if job.state is State.SUCCEEDED:
            try:
                output = await self._storage.output(job)
            except ResultLost:
                yield teller.event("end", job_view(job, lost=True))
                return
            except RequestError:
                return  # the client comes again, with its Last-Event-ID
        for event in teller.end(job, output):
            yield event

    async def _recalled(self, id: str, teller: Teller) -> bool:
        """Learn what the client has; False where that can't be known any more."""
        last = teller.entry
        try:
            before = await self._range(id, "-", last)
        except RedisError:
            before = []
        for _ in teller.entries(before):
            pass
        known = bool(before) and teller.entry == last and not teller.told.broken
        if not known:
            teller.told = Told(teller.told.attempt, broken=True)
        teller.entry = last
        return known

    async def _range(self, id: str, first: str, last: str) -> list[Entry]:
        found: Any = await self._client.xrange(stream_key(self._prefix, id), first, last)
        return list(found)

    async def _read(
        self, id: str, after: str, news: asyncio.Queue[list[Entry]], watch: Watch, stopped: asyncio.Event
    ) -> None:
        """Put new entries into `news`, and wake whoever sends them."""
        key = stream_key(self._prefix, id)
        while not stopped.is_set():
            try:
                found: Any = await self._client.xread({key: after}, block=BLOCK)
            except RedisError:
                await asyncio.sleep(PAUSE)
                continue
            for _, entries in found:
                after = entries[-1][0]
                news.put_nowait(entries)
                watch.nudge()


def _drained(news: asyncio.Queue[list[Entry]], teller: Teller) -> Iterator[bytes]:
    while not news.empty():
        yield from teller.entries(news.get_nowait())
