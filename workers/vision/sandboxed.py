"""The sandbox's side of the line: a process that decodes one picture at a time, under limits, without torch.

It is started by `workers.vision.sandbox` with two shared files and a socket; requests and answers are lines of JSON:

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

from workers.vision.decode import Limits, UndecodableImage, arm, cut, decode, plan


def main(arguments: str) -> None:
    """Serve until the other side hangs up."""
    options = json.loads(arguments)
    limits = Limits(**options["limits"])
    confine(options["memory"])
    arm(limits)
    with socket.socket(fileno=options["socket"]) as line, line.makefile("rwb") as stream:
        _say(stream, {"ready": True})
        for request in stream:
            allow_seconds(options["timeout"])
            _say(stream, answer(json.loads(request), limits, options["input"], options["output"]))


def confine(memory: int) -> None:
    """Bound what a decoder gone wrong can take."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, whose end ends us
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def allow_seconds(timeout: float) -> None:
    """Set the CPU limit for the next picture; the kernel counts from the start of the process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = math.ceil(used.ru_utime + used.ru_stime + timeout) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))


def answer(request: dict[str, Any], limits: Limits, source: int, target: int) -> dict[str, Any]:
    """Decode and cut one picture; the tiles lie in `target` when the answer is said."""
    try:
        picture = decode(os.pread(source, request["bytes"], 0), limits)
        planned = plan(picture, request["max_tiles"], request["thumbnail"], limits.side)
        cut(planned, limits.side, lambda size: _room(target, size))
    except UndecodableImage as error:
        return {"error": error.reason, "code": error.code}
    except MemoryError:
        return {"error": "tiling it takes more memory than a picture is given", "code": "undecodable_image"}
    width, height = picture.size
    return {"tiles": planned.tiles, "grid": planned.grid, "width": width, "height": height}


def _room(target: int, size: int) -> memoryview:
    os.ftruncate(target, size)
    return memoryview(mmap.mmap(target, size))


def _say(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


if __name__ == "__main__":
    main(sys.argv[1])
