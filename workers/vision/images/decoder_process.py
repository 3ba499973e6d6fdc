"""A decoder process: decodes one image at a time, under limits, in one thread, without torch.

`images.decoder_pool` starts it with a socket. Requests and replies are lines of JSON; with each request come the
descriptors of two files, which hold the image and take the tiles:

    {"ready": true, "resampler": ""}                   once, with the reason where Pillow resizes
    {"bytes": 214013, "max_tiles": 12, "thumbnail": true}
    {"tiles": 13, "grid": [4, 3], "width": 1920, "height": 1440, "warning": null}
    {"error": "…", "code": "undecodable_image"}        the image is at fault
    {"shortage": "decoding"}                           the memory limit was reached
"""

import json
import math
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shared.images import ImageLimits
from workers.vision.images.decode import (
    DecodeError,
    MemoryShortage,
    configure,
    decode,
    plan_tiles,
    write_tiles,
)
from workers.vision.images.resampler import Resampler, ResamplerDiffers

MAX_REQUEST_BYTES = 4096
STDERR = 2


def main(arguments: str) -> None:
    """Serve until the pool closes its end of the socket."""
    options = json.loads(arguments)
    limits = ImageLimits(**options["limits"])
    configure(limits)
    limit_resources(options["memory_bytes"])
    resampler, problem = load_resampler(options["resampler"])
    # The end of the worker is the end of this process, quietly: nobody is left to hear of it.
    with socket.socket(fileno=options["socket"]) as connection, suppress(ConnectionError):
        _send(connection, {"ready": True, "resampler": problem})
        for request, source, target in _requests(connection):
            limit_cpu(options["timeout_s"])
            try:
                with silent_libraries():
                    answer = reply(request, limits, options["tile_side"], source, target, resampler=resampler)
                _send(connection, answer)
            finally:
                os.close(source)
                os.close(target)


def limit_resources(memory_bytes: int) -> None:
    """Bound what a decoder gone wrong can take, beyond what the process has mapped by now."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this process
    limit = _mapped_bytes() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def silent_libraries() -> Iterator[None]:
    """Drop what libraries of C print meanwhile: libtiff's lines would enter the worker's log, and quote the file."""
    kept = os.dup(STDERR)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)


def limit_cpu(timeout_s: float) -> None:
    """Set the CPU limit for the next image; the kernel counts from the start of the process, in whole seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + timeout_s)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def load_resampler(descriptor: int | None) -> tuple[Resampler | None, str]:
    """Return the resampler of an open library, or None and why there is none."""
    if descriptor is None:
        return None, "it was not compiled"
    try:
        return Resampler(descriptor), ""
    except (OSError, AttributeError, ResamplerDiffers) as error:
        return None, str(error)


def reply(
    request: dict[str, Any],
    limits: ImageLimits,
    side: int,
    source: int,
    target: int,
    *,
    resampler: Resampler | None = None,
) -> dict[str, Any]:
    """Decode and tile one image; the tiles are in `target` when the reply is sent."""
    try:
        decoded = decode(os.pread(source, request["bytes"], 0), limits)
        plan = plan_tiles(decoded.image, request["max_tiles"], request["thumbnail"], side)
        write_tiles(plan, side, lambda size: memoryview(_map(target, size)), resampler)
    except DecodeError as error:
        return {"error": error.reason, "code": error.code}
    except MemoryShortage as error:
        return {"shortage": str(error)}
    except (MemoryError, OSError):  # mmap says ENOMEM by an OSError
        return {"shortage": "tiling"}
    width, height = decoded.image.size
    size = {"width": width, "height": height}
    return {"tiles": plan.tiles, "grid": plan.grid, "warning": decoded.warning, **size}


def _requests(connection: socket.socket) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Yield each request with its two descriptors; the pool sends the next one after the reply."""
    received, descriptors = b"", list[int]()
    while True:
        data, new, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, 2)
        if not data:
            return
        received += data
        descriptors += new
        if received.endswith(b"\n"):
            source, target = descriptors
            yield json.loads(received), source, target
            received, descriptors = b"", []


def _map(descriptor: int, size: int) -> mmap.mmap:
    """Map a shared file with all its pages: one fault for each would take a tenth of the time of an image."""
    return mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _mapped_bytes() -> int:
    """Address space of this process, which grows with the number of cores; 0 where it can't be read."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    except OSError:
        return 0


if __name__ == "__main__":
    main(sys.argv[1])
