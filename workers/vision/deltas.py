"""Text as it is generated: gathered over all jobs for a moment, then appended to their streams in one round trip.

job's thread: stream.add(text) …  stream.flush() ──┐
this thread:  wait for text, gather, XADD all, go on ┴─> the flush's event is set, whether or not the text got there
"""

import threading
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter
from redis import Redis

from shared.events import STREAM_MAXLEN, STREAM_TTL_S, TextDelta, stream_key

log = structlog.get_logger(__name__)
LOST = Counter("tileq_vision_lost_deltas_total", "Deltas that the events Redis did not take; readers get a reset")


class Deltas(threading.Thread):
    """Writes what the streams of all jobs gathered."""

    def __init__(self, client: "Redis", prefix: str, interval: float) -> None:
        super().__init__(name="deltas", daemon=True)
        self._client = client
        self._prefix = prefix
        self._interval = interval
        self._lock = threading.Lock()
        self._filled: list[Stream] = []
        self._some = threading.Event()  # there is something to write
        self._now = threading.Event()  # … and somebody waits for it
        self._closed = False

    def stream(self, job: str, attempt: int) -> "Stream":
        """The stream of one attempt."""
        return Stream(self, job, attempt)

    def run(self) -> None:
        """Write until closed, and then what is left."""
        while not self._closed:
            self._some.wait()
            self._now.wait(self._interval)
            self.write()
        self.write()

    def write(self) -> None:
        """Append everything gathered so far, in one round trip."""
        with self._lock:
            self._some.clear()
            self._now.clear()
            streams, self._filled = self._filled, []
            parts = [stream.take() for stream in streams]
        self._append([part for part in parts if part.delta.text])
        for part in parts:
            for waiting in part.waiting:
                waiting.set()

    def close(self) -> None:
        """Write what is left and end."""
        self._closed = True
        self._now.set()
        self._some.set()
        if self.is_alive():
            self.join()

    def fill(self, stream: "Stream", text: str, waiting: threading.Event | None = None) -> None:
        """Take `text` in for `stream`; with `waiting`, write without delay and set it then."""
        with self._lock:
            if stream.empty:
                self._filled.append(stream)
            stream.put(text, waiting)
            if waiting:
                self._now.set()
            self._some.set()

    def _append(self, parts: list["Part"]) -> None:
        if not parts:
            return
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for part in parts:
                    key = stream_key(self._prefix, part.job)
                    pipe.xadd(key, part.delta.fields(), maxlen=STREAM_MAXLEN, approximate=True)
                    pipe.expire(key, STREAM_TTL_S)
                pipe.execute()
        except Exception as error:  # whatever it is: neither a job nor this thread is lost over it
            LOST.inc(len(parts))
            log.warning("deltas lost, their readers will be reset", streams=len(parts), error=str(error))


@dataclass(frozen=True)
class Part:
    """What one stream gathered, and who waits until it is written."""

    job: str
    delta: TextDelta
    waiting: list[threading.Event]


@dataclass
class Stream:
    """The text of one attempt, on its way out. `take` and `put` belong to `Deltas`, which locks."""

    deltas: Deltas
    job: str
    attempt: int
    _offset: int = 0  # characters taken out so far
    _texts: list[str] = field(default_factory=list)
    _waiting: list[threading.Event] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Send `text` out with the next lot."""
        self.deltas.fill(self, text)

    def flush(self) -> threading.Event:
        """Send what is there out now; the event is set when that is done, well or badly."""
        done = threading.Event()
        self.deltas.fill(self, "", done)
        return done

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._texts

    def put(self, text: str, waiting: threading.Event | None) -> None:
        """Gather `text`."""
        self._texts.append(text)
        if waiting:
            self._waiting.append(waiting)

    def take(self) -> Part:
        """Hand out what was gathered."""
        text = "".join(self._texts)
        part = Part(self.job, TextDelta(self.attempt, self._offset, text), self._waiting)
        self._offset += len(text)
        self._texts, self._waiting = [], []
        return part
