"""Free ports on loopback, never the same for two processes that look for some at the same time.

Between choosing a port and listening on it lie seconds. So each process keeps to a block of ports of its own, and
holds the block by listening on its first port; the system lets go of it when the process ends, however it ends.
"""

import atexit
import errno
import random
import socket
from collections import deque
from contextlib import suppress
from functools import cache

GRPC_OFFSET = 10_000  #: SeaweedFS puts each server's gRPC this far above its HTTP port.
_BLOCK = 100
# These and those GRPC_OFFSET above don't overlap, and lie below the ports that outgoing connections take (32768..).
_BLOCKS = range(11_000, 21_000, _BLOCK)
_LOOPBACK = "127.0.0.1"


def free_ports(count: int, *, with_grpc: bool = False, host: str = _LOOPBACK) -> list[int]:
    """Return `count` different free ports; `with_grpc`: those `GRPC_OFFSET` above are free too.

    A port is given out again only after the rest of the block.
    """
    block = _own_block()
    found: list[int] = []
    for _ in range(len(block)):
        if len(found) == count:
            break
        port = block[0]
        block.rotate(-1)
        if is_free(port, host) and (not with_grpc or is_free(port + GRPC_OFFSET, host)):
            found.append(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports on {host}")
    return found


def is_free(port: int, host: str = _LOOPBACK) -> bool:
    """Tell whether `port` can be bound."""
    return not bind_problem(port, host)


def bind_problem(port: int, host: str) -> str:
    """Return why `port` (0: any) of `host` can't be bound, or ""."""
    try:
        with _listening(host, port):
            return ""
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use"
        return f"can't listen on port {port} of {host}: {error.strerror}"


@cache
def _own_block() -> deque[int]:
    """Return the ports of a block that is this process's from now on."""
    for first in random.sample(_BLOCKS, len(_BLOCKS)):
        with suppress(OSError):
            atexit.register(_listening(_LOOPBACK, first).close)
            return deque(range(first + 1, first + _BLOCK))
    raise OSError(f"every block of ports from {_BLOCKS.start} to {_BLOCKS.stop} is taken")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: TIME_WAIT is no obstacle
        listener.bind((host, port))
        listener.listen()  # with SO_REUSEADDR two sockets may bind, but only one may listen
    except OSError:
        listener.close()
        raise
    return listener
