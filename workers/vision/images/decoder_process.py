"""A decoder process: decodes one image at a time, under limits, without torch.

`images.decoder_pool` starts it with two shared files and a socket; requests and replies are lines of JSON:

    {"bytes": 214013, "max_tiles": 12, "thumbnail": true}
    {"tiles": 13, "grid": [4, 3], "width": 1920, "height": 1440}   or   {"error": "…", "code": "undecodable_image"}
"""

import json
import math
import mmap
import os
import resource
import signal
import socket
import sys
from typing import Any

from shared.images import ImageLimits
from workers.vision.images.decode import DecodeError, configure_pillow, decode, plan_tiles, write_tiles


def main(arguments: str) -> None:
    """Serve until the pool closes its end of the socket."""
    options = json.loads(arguments)
    limits = ImageLimits(**options["limits"])
    limit_resources(options["memory_bytes"])
    configure_pillow(limits)
    with socket.socket(fileno=options["socket"]) as connection, connection.makefile("rwb") as stream:
        _send(stream, {"ready": True})
        for request in stream:
            limit_cpu(options["timeout_s"])
            _send(stream, reply(json.loads(request), limits, options))


def limit_resources(memory_bytes: int) -> None:
    """Bound what a decoder gone wrong can take."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends this process
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(timeout_s: float) -> None:
    """Set the CPU limit for the next image; the kernel counts from the start of the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + timeout_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def reply(request: dict[str, Any], limits: ImageLimits, options: dict[str, Any]) -> dict[str, Any]:
    """Decode and tile one image; the tiles are in the output file when the reply is sent."""
    side = options["tile_side"]
    try:
        image = decode(os.pread(options["input"], request["bytes"], 0), limits)
        plan = plan_tiles(image, request["max_tiles"], request["thumbnail"], side)
        write_tiles(plan, side, lambda size: _allocate(options["output"], size))
    except DecodeError as error:
        return {"error": error.reason, "code": error.code}
    except MemoryError:
        return {"error": "tiling it takes more memory than an image is given", "code": "undecodable_image"}
    width, height = image.size
    return {"tiles": plan.tiles, "grid": plan.grid, "width": width, "height": height}


def _allocate(descriptor: int, size: int) -> memoryview:
    os.ftruncate(descriptor, size)
    return memoryview(mmap.mmap(descriptor, size))


def _send(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


if __name__ == "__main__":
    main(sys.argv[1])
