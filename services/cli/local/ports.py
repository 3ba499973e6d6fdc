"""Free ports on loopback."""

import random
import socket
from contextlib import ExitStack

GRPC_OFFSET = 10_000  #: SeaweedFS puts each server's gRPC this far above its HTTP port.
_LOW, _HIGH = 11_000, 22_000  # this and this + GRPC_OFFSET lie below the ports that outgoing connections take (32768..)


def free_ports(count: int, *, with_grpc: bool = False, host: str = "127.0.0.1") -> list[int]:
    """Return `count` different ports nobody listens on; `with_grpc`: those `GRPC_OFFSET` above are free too."""
    offsets = (0, GRPC_OFFSET) if with_grpc else (0,)
    found: list[int] = []
    with ExitStack() as held:  # held until all are chosen, so that no two are the same
        for port in random.sample(range(_LOW, _HIGH), _HIGH - _LOW):
            if len(found) == count:
                break
            with ExitStack() as pair:
                try:
                    for offset in offsets:
                        pair.enter_context(_bound(host, port + offset))
                except OSError:
                    continue
                held.enter_context(pair.pop_all())
            found.append(port)
    if len(found) < count:
        raise OSError(f"no {count} free ports on {host}")
    return found


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether `port` can be bound."""
    try:
        with _bound(host, port):
            return True
    except OSError:
        return False


def _bound(host: str, port: int) -> socket.socket:
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
