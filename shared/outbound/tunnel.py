"""Opens a connection to a server through an egress proxy, by CONNECT (RFC 9110, 9.3.6)."""

import re
import socket
import time

from shared.outbound.proxy import ProxyEndpoint

MAX_HEAD_BYTES = 16 << 10  #: of the proxy's response
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r\n)")


def open_tunnel(proxy: ProxyEndpoint, authority: str, timeout: float) -> socket.socket:
    """Return a socket that leads to `authority` (host:port) through `proxy`, within `timeout` seconds.

    Raises `TimeoutError`, or `ConnectionError` with what the proxy answered.
    """
    deadline = time.monotonic() + timeout
    try:
        connection = socket.create_connection((proxy.host, proxy.port), timeout)
    except TimeoutError:
        raise
    except OSError as error:
        raise ConnectionError(f"the egress proxy can't be reached: {error.strerror or error}") from error
    try:
        connection.sendall(_request(proxy, authority))
        _read_success(connection, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def _request(proxy: ProxyEndpoint, authority: str) -> bytes:
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _read_success(connection: socket.socket, deadline: float) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        part = connection.recv(4096)
        head += part
        if not part or len(head) > MAX_HEAD_BYTES:
            raise ConnectionError("the egress proxy answered no HTTP")
    status = _STATUS_LINE.match(head)
    if status is None:
        raise ConnectionError("the egress proxy answered no HTTP")
    if not status[1].startswith(b"2"):
        raise ConnectionError(f"the egress proxy answered {int(status[1])}")
    if not head.endswith(b"\r\n\r\n"):  # a receiver speaks after the client
        raise ConnectionError("the egress proxy sent more than its answer")
