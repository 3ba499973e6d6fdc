"""Processes that decode pictures nobody vouches for, so that a decoder's bug or a bomb costs one picture.

    Sandbox.tile(bytes) ──shared file──> sandboxed.main (Pillow, limits) ──shared file──> Tiled

The shared files are unlinked before they are used, so whoever dies leaves nothing behind. The processes are started
afresh (no fork of a process that holds a GPU), with an empty environment: no credentials to read.
"""

import json
import logging
import os
import queue
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from shared.tiling import TILE
from workers.vision.decode import Limits, Mode, UndecodableImage

__all__ = ["Sandbox", "SandboxError", "Tiled", "UndecodableImage"]

START_TIMEOUT = 60.0  # importing Pillow and numpy takes 0.3 s, on a machine that pages far longer
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - files made there are unlinked at once
PASSED_ON = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")

logger = logging.getLogger(__name__)


class SandboxError(Exception):
    """The sandbox itself does not work: no picture is to blame."""


@dataclass(frozen=True)
class Tiled:
    """A picture as the model takes it in."""

    tiles: NDArray[np.uint8]  #: (T, side, side, 3), row by row, the thumbnail last
    grid: tuple[int, int]  #: columns, rows
    width: int  #: of the picture as it was tiled, turned if EXIF said so
    height: int


class Sandbox:
    """A pool of decoding processes; `tile` may be called from many threads."""

    def __init__(
        self,
        decoders: int,
        timeout: float,
        memory: int,
        mode: Mode = "natural",
        *,
        max_pixels: int = 50_000_000,
        side: int = TILE,
    ) -> None:
        self._start = Start(Limits(mode, max_pixels, side), timeout, memory)
        self._closed = threading.Event()
        self._idle: queue.LifoQueue[Decoder | None] = queue.LifoQueue()
        self._all = decoders
        started = [Decoder(self._start) for _ in range(decoders)]  # all at once, then wait for each
        for decoder in started:
            decoder.await_ready()
            self._idle.put(decoder)

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> Tiled:
        """Decode and cut `image`. Raises `UndecodableImage`, which is for good, or `SandboxError`."""
        decoder = self._idle.get()
        if self._closed.is_set():
            self._idle.put(decoder)
            raise SandboxError("the sandbox is closed")
        try:
            if decoder is None or not decoder.alive:
                decoder = self._replace(decoder)
            return decoder.tile(image, max_tiles, thumbnail)
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End the processes, each once the picture at hand is done or out of time."""
        if self._closed.is_set():
            return
        self._closed.set()
        for _ in range(self._all):
            decoder = self._idle.get()
            if decoder:
                decoder.end()
        self._idle.put(None)  # wakes who still waits for one; each hands it on

    def _replace(self, dead: "Decoder | None") -> "Decoder":
        if dead:
            dead.end()
        decoder = Decoder(self._start)
        decoder.await_ready()
        return decoder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Start:
    """How a decoding process is started."""

    limits: Limits
    timeout: float
    memory: int


class Decoder:
    """One process, for one thread at a time."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._line, theirs = socket.socketpair()
        self._input, self._output = _shared_file(), _shared_file()
        self._received = b""
        self._ended = False
        descriptors = {"socket": theirs.fileno(), "input": self._input, "output": self._output}
        options = {"limits": asdict(start.limits), "timeout": start.timeout, "memory": start.memory, **descriptors}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "workers.vision.sandboxed", json.dumps(options)],
                pass_fds=tuple(descriptors.values()),
                stdin=subprocess.DEVNULL,
                env={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            )

    @property
    def alive(self) -> bool:
        """Whether the process can take a picture."""
        return self._process.poll() is None

    def await_ready(self) -> None:
        """Wait until the process has its limits in place."""
        if not self._answer(START_TIMEOUT):
            self.end()
            raise SandboxError(f"a decoding process did not start ({self._fate()})")

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> Tiled:
        """Hand `image` over and wait; a process that does not answer in time is killed."""
        os.ftruncate(self._input, 0)
        _write(self._input, image)
        request = {"bytes": len(image), "max_tiles": max_tiles, "thumbnail": thumbnail}
        with suppress(OSError):  # it died this moment: no answer will come, and the fate says why
            self._line.sendall(json.dumps(request).encode() + b"\n")
        began = time.monotonic()
        answer = self._answer(self._start.timeout)
        if answer is None:
            slow = time.monotonic() - began >= self._start.timeout
            self.end()
            fate = f"decoding took longer than {self._start.timeout:g} s" if slow else self._fate()
            logger.warning("a decoding process was lost: %s", fate)
            raise UndecodableImage(fate)
        if "error" in answer:
            raise UndecodableImage(answer["error"], answer["code"])
        return self._read(answer, max_tiles)

    def end(self) -> None:
        """Kill the process and let go of what was shared; again does nothing."""
        if self._ended:
            return
        self._ended = True
        self._process.kill()
        self._process.wait()
        self._line.close()
        os.close(self._input)
        os.close(self._output)

    def _read(self, answer: dict[str, Any], max_tiles: int) -> Tiled:
        """Take the tiles out of the shared file, believing nothing that the process says unseen."""
        try:
            count, columns, rows = (int(number) for number in (answer["tiles"], *answer["grid"]))
            side = self._start.limits.side
            if not 0 < count <= max_tiles + 1:
                raise ValueError(count)
            tiles = np.empty((count, side, side, 3), np.uint8)
            if os.preadv(self._output, [tiles.data], 0) != tiles.nbytes:
                raise ValueError("tiles are missing")
            os.ftruncate(self._output, 0)
            return Tiled(tiles, (columns, rows), int(answer["width"]), int(answer["height"]))
        except (ValueError, KeyError, TypeError) as error:
            self.end()
            raise UndecodableImage("the decoding process answered with something else than tiles") from error

    def _answer(self, timeout: float) -> dict[str, Any] | None:
        """One line from the process; None if it ended or took too long."""
        until = time.monotonic() + timeout
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._line], [], [], max(0.0, until - time.monotonic()))
            try:
                part = self._line.recv(4096) if ready else b""
            except OSError:
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

    def _fate(self) -> str:
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "the decoding process hung up"
        return f"the decoding process ended with {'signal' if status < 0 else 'status'} {abs(status)}"


def _shared_file() -> int:
    """A file without a name, in memory where the system has such a place."""
    folder = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


def _write(descriptor: int, data: bytes) -> None:
    view, at = memoryview(data), 0
    while at < len(view):
        at += os.pwrite(descriptor, view[at:], at)
