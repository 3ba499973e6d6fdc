"""A pool of processes that decode untrusted images, so that a decoder's bug or a bomb costs one image.

    DecoderPool.tile(bytes) ──shared file──> decoder_process.main (Pillow, limits) ──shared file──> TiledImage

The shared files have no name, so a process that dies leaves nothing behind. The processes are started afresh (no fork
of a process that holds a GPU), with an empty environment: they know no credentials.

Only what the image itself does is held against it (`DecodeError`): its content, and the processor time it takes. A
lost process, memory, space and time on the clock are the worker's (`DecoderUnavailable`): the job is tried again.
"""

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from prometheus_client import Counter, Gauge

from shared.images import ImageLimits
from shared.settings.roles import VisionWorkerSettings
from shared.tiling import TILE
from workers.vision.images.decode import DecodeError
from workers.vision.images.resampler import library_or_none
from workers.vision.images.shared_file import allocate

START_TIMEOUT_S = 60.0  # importing Pillow and numpy takes 0.3 s, on a machine that pages far longer
MIN_POLL_S = 0.001  # a timeout of 0 would make the socket non-blocking
MAX_WARNING_CHARACTERS = 300
MAX_WALL_FACTOR = 3  #: times the limit of processor time; beyond, the machine is too busy
INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")
#: numpy's libraries start a thread for each core, and map 41 MB of address space for each.
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
#: glibc gives large blocks back to the kernel, and their pages, which have to be zeroed again, took a third of the time
#: of an image of 9 megapixels. A process keeps up to 192 MB of its heap, which serves images of up to 12.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(192 << 20)}
#: SIGKILL is what the kernel sends when memory runs out, SIGBUS when a shared page has no room.
OUT_OF_MEMORY_EXITS = (-signal.SIGKILL, -signal.SIGBUS)

logger = logging.getLogger(__name__)
LOST_DECODERS = Counter("tileq_vision_decoders_lost_total", "Decoder processes that ended or ran short of memory")

FAST_RESIZE = Gauge("tileq_vision_fast_resize", "1 while resample.c resizes images, 0 while Pillow does")


class DecoderUnavailable(Exception):
    """The image could not be decoded for a reason that lies in this worker or its machine; `code` is the job's."""

    def __init__(self, reason: str, code: str = "worker_lost") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


class DecoderLost(DecoderUnavailable):
    """The process ended or ran short of memory; a new one may do better."""


@dataclass(frozen=True)
class DecoderOptions:
    """How decoder processes are started and what they allow."""

    limits: ImageLimits
    timeout_s: float = 20  #: processor time of one image
    memory_bytes: int = 2 << 30  #: address space of one process, beyond what it has when it starts
    tile_side: int = TILE  #: pixels

    @classmethod
    def of(cls, settings: VisionWorkerSettings, tile_side: int = TILE) -> "DecoderOptions":
        """Return the options that the settings name."""
        return cls(ImageLimits.of(settings), settings.decode_timeout, settings.decode_memory, tile_side)


@dataclass(frozen=True)
class TiledImage:
    """An image as the model takes it in."""

    tiles: NDArray[np.uint8]  #: (T, side, side, 3), row by row, the thumbnail last
    grid: tuple[int, int]  #: columns, rows
    width: int  #: of the image as it was tiled, orientation applied
    height: int
    warning: str | None = None  #: what people should know of how it was decoded


class DecoderPool:
    """A pool of decoder processes; `tile` may be called from many threads."""

    def __init__(self, processes: int, options: DecoderOptions) -> None:
        self._options = options
        self._closed = threading.Event()
        self._idle: queue.LifoQueue[DecoderProcess | None] = queue.LifoQueue()
        self._processes = processes
        self._resampler = library_or_none()
        # All at once, then wait for each.
        started = [DecoderProcess(options, self._resampler) for _ in range(processes)]
        for decoder in started:
            problem = decoder.await_ready()
            self._idle.put(decoder)
        FAST_RESIZE.set(not problem)
        if problem:
            logger.warning("images are resized by Pillow, several times slower than resample.c: %s", problem)

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        """Decode and tile `image`. Raises `DecodeError`, which is permanent, or `DecoderUnavailable`."""
        decoder = self._idle.get()
        if self._closed.is_set():
            self._idle.put(decoder)
            raise DecoderUnavailable("the decoder pool is closed")
        try:
            if decoder is None or not decoder.alive:
                decoder = self._replace(decoder)
            try:
                return decoder.tile(image, max_tiles, thumbnail)
            except DecoderLost as error:
                LOST_DECODERS.inc()
                logger.warning("an image is decoded again in a new process: %s", error.reason)
                decoder = self._replace(decoder)
                return decoder.tile(image, max_tiles, thumbnail)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End the processes, each once its image is done or out of time."""
        if self._closed.is_set():
            return
        self._closed.set()
        for _ in range(self._processes):
            decoder = self._idle.get()
            if decoder:
                decoder.end()
        self._idle.put(None)  # wakes a waiting thread; each passes it on

    def _replace(self, dead: "DecoderProcess | None") -> "DecoderProcess":
        if dead:
            dead.end()
        decoder = DecoderProcess(self._options, self._resampler)
        decoder.await_ready()
        return decoder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DecoderProcess:
    """One process, for one thread at a time."""

    def __init__(self, options: DecoderOptions, resampler: int | None = None) -> None:
        """`resampler`: the descriptor of the compiled resample.c."""
        self._options = options
        self._received = b""
        self._ended = False
        try:
            self._socket, theirs = socket.socketpair()
        except OSError as error:
            raise DecoderUnavailable(f"no connection to a decoder process could be made: {error}") from error
        try:
            with theirs:
                self._process = _start(options, theirs, resampler)
        except OSError as error:
            self._socket.close()
            raise DecoderUnavailable(f"a decoder process could not be started: {error}") from error

    @property
    def alive(self) -> bool:
        """Whether the process can take an image."""
        return self._process.poll() is None

    def await_ready(self) -> str:
        """Wait until the process has its limits in place; return why it does not use `resampler`, or "".

        Raises `DecoderUnavailable`.
        """
        if not (ready := self._receive(START_TIMEOUT_S)):
            self.end()
            raise DecoderUnavailable(f"a decoder process did not start: {self._exit_reason()}")
        return str(ready.get("resampler", ""))

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        """Send `image` and wait; a process that does not reply in time is killed.

        Raises `DecodeError`, `DecoderLost` or `DecoderUnavailable`.
        """
        side = self._options.tile_side
        try:
            with _shared_file(len(image)) as source, _shared_file((max_tiles + 1) * side * side * 3) as target:
                _write(source, image)
                request = {"bytes": len(image), "max_tiles": max_tiles, "thumbnail": thumbnail}
                return self._read_tiles(self._ask(request, source, target), target, max_tiles)
        except (MemoryError, OSError) as error:
            raise DecoderUnavailable(str(error) or "no memory for the tiles", "out_of_memory") from error

    def end(self) -> None:
        """Kill the process; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def _ask(self, request: dict[str, Any], source: int, target: int) -> dict[str, Any]:
        """Return the reply that brings tiles."""
        with suppress(OSError):  # it died this moment: no reply will come, and its exit status says why
            socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], [source, target])
        wall_s = MAX_WALL_FACTOR * self._options.timeout_s
        until = time.monotonic() + wall_s
        reply = self._receive(wall_s)
        if reply is None:
            late = time.monotonic() >= until
            self.end()
            raise self._too_slow(wall_s) if late else self._lost()
        if "error" in reply:
            raise DecodeError(reply["error"], reply["code"])
        if "shortage" in reply:
            limit = f"TILEQ_DECODE_MEMORY={self._options.memory_bytes} allows"
            raise DecoderLost(f"{reply['shortage']} it takes more memory than {limit}", "out_of_memory")
        return reply

    def _read_tiles(self, reply: dict[str, Any], target: int, max_tiles: int) -> TiledImage:
        """Copy the tiles out of the shared file; nothing that the process says is trusted unchecked."""
        try:
            count, columns, rows = (int(number) for number in (reply["tiles"], *reply["grid"]))
            side = self._options.tile_side
            if not 0 < count <= max_tiles + 1:
                raise ValueError(count)
            tiles = np.empty((count, side, side, 3), np.uint8)
            if os.preadv(target, [tiles.data], 0) != tiles.nbytes:
                raise ValueError("tiles are missing")
            warning = str(reply["warning"])[:MAX_WARNING_CHARACTERS] if reply["warning"] else None
            return TiledImage(tiles, (columns, rows), int(reply["width"]), int(reply["height"]), warning)
        except (ValueError, KeyError, TypeError) as error:
            self.end()
            raise DecoderLost("the decoder process replied with something else than tiles") from error

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        """One line from the process; None if it ended or took too long."""
        until = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            self._socket.settimeout(max(MIN_POLL_S, until - time.monotonic()))
            try:
                part = self._socket.recv(4096)
            except OSError:  # a timeout, or the process has gone
                part = b""
            if not part:
                return None
            self._received += part
        line, self._received = self._received.split(b"\n", 1)
        try:
            message = json.loads(line)
        except ValueError:
            return None
        return message if isinstance(message, dict) else None

    def _too_slow(self, wall_s: float) -> DecoderUnavailable:
        return DecoderUnavailable(
            f"decoding did not end within {wall_s:g} s, while it used less than {self._options.timeout_s:g} s of "
            "processor time: this machine is overloaded; see TILEQ_DECODE_TIMEOUT and TILEQ_DECODERS"
        )

    def _lost(self) -> Exception:
        """The error for a process that closed its connection. Exceeding the CPU limit is the image's own doing."""
        reason = self._exit_reason()
        if self._process.returncode == -signal.SIGXCPU:
            return DecodeError(f"decoding takes more than {self._options.timeout_s:g} s of processor time")
        code = "out_of_memory" if self._process.returncode in OUT_OF_MEMORY_EXITS else "worker_lost"
        return DecoderLost(reason, code)

    def _exit_reason(self) -> str:
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "the decoder process closed its connection"
        name = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"status {status}"
        return f"the decoder process ended with {name}"


def _start(options: DecoderOptions, connection: socket.socket, resampler: int | None) -> "subprocess.Popen[bytes]":
    arguments = json.dumps(asdict(options) | {"socket": connection.fileno(), "resampler": resampler})
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "workers.vision.images.decoder_process", arguments],
        pass_fds=[connection.fileno(), *([] if resampler is None else [resampler])],
        stdin=subprocess.DEVNULL,
        env={name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ} | ONE_THREAD | KEEP_MEMORY,
    )


@contextmanager
def _shared_file(size: int) -> Iterator[int]:
    descriptor = allocate(size)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view, at = memoryview(data), 0
    while at < len(view):
        at += os.pwrite(descriptor, view[at:], at)
