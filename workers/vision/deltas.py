"""Text as it is generated: gathered over all jobs for a moment, then appended to their streams in one round trip.

job's thread: buffer.add(text) …  buffer.finish() ─┐
this thread:  wait for text, gather, XADD all ─────┴─> the flush's event is set, whether or not the text was written
"""

import threading
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter
from redis import Redis

from shared.events import STREAM_MAXLEN, STREAM_TTL_S, TextDelta, stream_key

log = structlog.get_logger(__name__)
LOST = Counter("tileq_vision_deltas_lost_total", "Deltas that the events Redis did not take; readers get a reset")


class DeltaWriter(threading.Thread):
    """Writes the gathered text of all buffers every `interval` seconds, and the first of each buffer at once."""

    def __init__(self, client: "Redis", prefix: str, interval: float) -> None:
        super().__init__(name="deltas", daemon=True)
        self._client = client
        self._prefix = prefix
        self._interval = interval
        self._lock = threading.Lock()
        self._filled: list[DeltaBuffer] = []
        self._has_data = threading.Event()
        self._flush_now = threading.Event()  # a flush or a first text waits: skip the rest of the interval
        self._closed = False

    def buffer(self, job: str, attempt: int) -> "DeltaBuffer":
        """Return the buffer of one attempt."""
        return DeltaBuffer(self, job, attempt)

    def run(self) -> None:
        """Write until closed, and then what is left."""
        while not self._closed:
            self._has_data.wait()
            self._flush_now.wait(self._interval)
            self.write()
        self.write()

    def write(self) -> None:
        """Append everything gathered so far, in one round trip."""
        with self._lock:
            self._has_data.clear()
            self._flush_now.clear()
            buffers, self._filled = self._filled, []
            batches = [buffer.take() for buffer in buffers]
        self._append([batch for batch in batches if batch.delta.text])
        for batch in batches:
            for flushed in batch.flushes:
                flushed.set()

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._closed = True
        self._flush_now.set()
        self._has_data.set()
        if self.is_alive():
            self.join()

    def fill(self, buffer: "DeltaBuffer", text: str, flushed: threading.Event | None = None) -> None:
        """Put `text` into `buffer`; with `flushed`, write without delay and set it then."""
        with self._lock:
            urgent = flushed or not buffer.begun
            if buffer.empty:
                self._filled.append(buffer)
            buffer.put(text, flushed)
            if urgent:
                self._flush_now.set()
            self._has_data.set()

    def drop_unwritten(self, buffer: "DeltaBuffer") -> bool:
        """Forget the text of `buffer` if none of it was written yet; tell whether that is so."""
        with self._lock:
            return buffer.drop_unwritten()

    def _append(self, batches: list["DeltaBatch"]) -> None:
        if not batches:
            return
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for batch in batches:
                    key = stream_key(self._prefix, batch.job)
                    pipe.xadd(key, batch.delta.fields(), maxlen=STREAM_MAXLEN, approximate=True)
                    pipe.expire(key, STREAM_TTL_S)
                pipe.execute()
        except Exception as error:  # deltas may be lost, but no error of theirs ends a job or this thread
            LOST.inc(len(batches))
            log.warning("deltas lost, their readers will get a reset", streams=len(batches), error=str(error))


@dataclass(frozen=True)
class DeltaBatch:
    """Text gathered by one buffer, and the events to set once it was written."""

    job: str
    delta: TextDelta
    flushes: list[threading.Event]


@dataclass
class DeltaBuffer:
    """Text of one attempt that waits to be written. The writer calls `put`, `take`, `drop_unwritten` under its lock."""

    writer: DeltaWriter
    job: str
    attempt: int
    _offset: int = 0  # characters taken so far
    _texts: list[str] = field(default_factory=list)
    _flushes: list[threading.Event] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Have `text` written with the next batch."""
        self.writer.fill(self, text)

    def finish(self) -> threading.Event:
        """Have the rest of an answered attempt written now; the event is set when that is done, well or badly.

        Where none of the text was written yet, none is: its readers have it from the output a moment later. Readers of
        a lost attempt's text need it: its first delta tells them to reset.
        """
        if self.attempt > 1 or not self.writer.drop_unwritten(self):
            return self.flush()
        done = threading.Event()
        done.set()
        return done

    def flush(self) -> threading.Event:
        """Have the buffer written now; the event is set when that is done, well or badly."""
        flushed = threading.Event()
        self.writer.fill(self, "", flushed)
        return flushed

    @property
    def begun(self) -> bool:
        """Whether the attempt has text already; a client waits for its first."""
        return self._offset > 0 or bool(self._texts)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return not self._texts

    def put(self, text: str, flushed: threading.Event | None) -> None:
        """Gather `text`."""
        self._texts.append(text)
        if flushed:
            self._flushes.append(flushed)

    def drop_unwritten(self) -> bool:
        """Forget the text if none of it was taken yet; tell whether that is so."""
        if not self._offset:
            self._texts.clear()
        return not self._offset

    def take(self) -> DeltaBatch:
        """Return what was gathered, and empty the buffer."""
        text = "".join(self._texts)
        batch = DeltaBatch(self.job, TextDelta(self.attempt, self._offset, text), self._flushes)
        self._offset += len(text)
        self._texts, self._flushes = [], []
        return batch
