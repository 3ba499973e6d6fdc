"""A pool of processes that decode untrusted images, so that a decoder's bug or a bomb costs one image.

    DecoderPool.tile(bytes) ──shared file──> decoder_process.main (Pillow, limits) ──shared file──> TiledImage

The shared files are unlinked before they are used, so a process that dies leaves nothing behind. The processes are
started afresh (no fork of a process that holds a GPU), with an empty environment: they know no credentials.
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

from shared.images import ImageLimits
from shared.settings import VisionWorkerSettings
from shared.tiling import TILE
from workers.vision.images.decode import DecodeError

START_TIMEOUT_S = 60.0  # importing Pillow and numpy takes 0.3 s, on a machine that pages far longer
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - files made there are unlinked at once
INHERITED_VARIABLES = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")

logger = logging.getLogger(__name__)


class DecoderUnavailable(Exception):
    """No decoder process could work on the image: the machine or the worker is at fault, not the image."""


@dataclass(frozen=True)
class DecoderOptions:
    """How decoder processes are started and what they allow."""

    limits: ImageLimits
    timeout_s: float = 20  #: wall time of one image
    memory_bytes: int = 2 << 30  #: address space of one process
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


class DecoderPool:
    """A pool of decoder processes; `tile` may be called from many threads."""

    def __init__(self, processes: int, options: DecoderOptions) -> None:
        self._options = options
        self._closed = threading.Event()
        self._idle: queue.LifoQueue[Decoder | None] = queue.LifoQueue()
        self._processes = processes
        started = [Decoder(options) for _ in range(processes)]  # all at once, then wait for each
        for decoder in started:
            decoder.await_ready()
            self._idle.put(decoder)

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        """Decode and tile `image`. Raises `DecodeError`, which is permanent, or `DecoderUnavailable`."""
        decoder = self._idle.get()
        if self._closed.is_set():
            self._idle.put(decoder)
            raise DecoderUnavailable("the decoder pool is closed")
        try:
            if decoder is None or not decoder.alive:
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

    def _replace(self, dead: "Decoder | None") -> "Decoder":
        if dead:
            dead.end()
        decoder = Decoder(self._options)
        decoder.await_ready()
        return decoder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Decoder:
    """One process, for one thread at a time."""

    def __init__(self, options: DecoderOptions) -> None:
        self._options = options
        self._socket, theirs = socket.socketpair()
        self._input, self._output = _shared_file(), _shared_file()
        self._received = b""
        self._ended = False
        descriptors = {"socket": theirs.fileno(), "input": self._input, "output": self._output}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [
                    sys.executable,
                    "-m",
                    "workers.vision.images.decoder_process",
                    json.dumps(asdict(options) | descriptors),
                ],
                pass_fds=tuple(descriptors.values()),
                stdin=subprocess.DEVNULL,
                env={name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ},
            )

    @property
    def alive(self) -> bool:
        """Whether the process can take an image."""
        return self._process.poll() is None

    def await_ready(self) -> None:
        """Wait until the process has its limits in place. Raises `DecoderUnavailable`."""
        if not self._receive(START_TIMEOUT_S):
            self.end()
            raise DecoderUnavailable(f"a decoder process did not start ({self._exit_reason()})")

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        """Send `image` and wait; a process that does not reply in time is killed."""
        os.ftruncate(self._input, 0)
        _write(self._input, image)
        request = {"bytes": len(image), "max_tiles": max_tiles, "thumbnail": thumbnail}
        with suppress(OSError):  # it died this moment: no reply will come, and its exit status says why
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        began = time.monotonic()
        reply = self._receive(self._options.timeout_s)
        if reply is None:
            slow = time.monotonic() - began >= self._options.timeout_s
            self.end()
            reason = f"decoding took longer than {self._options.timeout_s:g} s" if slow else self._exit_reason()
            logger.warning("a decoder process was lost: %s", reason)
            raise DecodeError(reason)
        if "error" in reply:
            raise DecodeError(reply["error"], reply["code"])
        return self._read_tiles(reply, max_tiles)

    def end(self) -> None:
        """Kill the process and release what was shared; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        self._process.kill()
        self._process.wait()
        self._socket.close()
        os.close(self._input)
        os.close(self._output)

    def _read_tiles(self, reply: dict[str, Any], max_tiles: int) -> TiledImage:
        """Copy the tiles out of the shared file; nothing that the process says is trusted unchecked."""
        try:
            count, columns, rows = (int(number) for number in (reply["tiles"], *reply["grid"]))
            side = self._options.tile_side
            if not 0 < count <= max_tiles + 1:
                raise ValueError(count)
            tiles = np.empty((count, side, side, 3), np.uint8)
            if os.preadv(self._output, [tiles.data], 0) != tiles.nbytes:
                raise ValueError("tiles are missing")
            os.ftruncate(self._output, 0)
            return TiledImage(tiles, (columns, rows), int(reply["width"]), int(reply["height"]))
        except (ValueError, KeyError, TypeError) as error:
            self.end()
            raise DecodeError("the decoder process replied with something else than tiles") from error

    def _receive(self, timeout_s: float) -> dict[str, Any] | None:
        """One line from the process; None if it ended or took too long."""
        until = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            ready, _, _ = select.select([self._socket], [], [], max(0.0, until - time.monotonic()))
            try:
                part = self._socket.recv(4096) if ready else b""
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

    def _exit_reason(self) -> str:
        try:
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "the decoder process closed its connection"
        return f"the decoder process ended with {'signal' if status < 0 else 'status'} {abs(status)}"


def _shared_file() -> int:
    """A file without a name, in memory where the system has such a place."""
    folder = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


def _write(descriptor: int, data: bytes) -> None:
    view, at = memoryview(data), 0
    while at < len(view):
        at += os.pwrite(descriptor, view[at:], at)
