"""Connections that lead to the checked addresses of a URL only, within one deadline and a limit of bytes read.

The server may be slow, endless, broken or hostile. So the host is resolved once and every address must be permitted
(`shared.outbound.ssrf`); the connection goes to those addresses with the TLS of the name, directly or through an egress
proxy; redirects, proxies of the environment and connection reuse are off; one deadline covers resolving, connecting,
sending and the response.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpcore
import httpx

from shared.outbound.proxy import ProxyEndpoint
from shared.outbound.ssrf import (
    Address,
    Lookup,
    Target,
    UrlPolicy,
    is_listed,
    refuse_unless_all_permitted,
    resolve,
)
from shared.outbound.tunnel import open_tunnel

Dial = Callable[[Address, int, float], socket.socket]

#: What `exchange` raises where the deadline passes, and where server, name or network fail.
TIMEOUTS = (TimeoutError, httpcore.TimeoutException)
FAILURES = (OSError, httpcore.NetworkError, httpcore.ProtocolError)


class Deadline:
    """A moment on the monotonic clock, for every wait before it."""

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def left(self) -> float:
        """Return the seconds until then. Raises `TimeoutError` once it has passed."""
        left = self._moment - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def shorten(self, seconds: float) -> None:
        """Let it pass in `seconds` at the latest."""
        self._moment = min(self._moment, time.monotonic() + seconds)


def _dial(address: Address, port: int, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect((str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Return a context that trusts the public authorities and those of the file, where one is named."""
    context = httpx.create_ssl_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


@dataclass(frozen=True)
class Egress:
    """How connections leave: directly, or through a proxy. Tests replace `lookup`, `dial` and `tls`."""

    tls: ssl.SSLContext
    proxy: ProxyEndpoint | None = None
    proxy_by_name: bool = False
    lookup: Lookup | None = None
    dial: Dial | None = None

    def connect(self, target: Target, policy: UrlPolicy, deadline: Deadline) -> socket.socket:
        """Resolve the host once, refuse unless every address is permitted, connect to the first one that accepts."""
        addresses = resolve(target, policy, deadline.left(), self.lookup)
        refuse_unless_all_permitted(target, addresses, policy)
        for tries_left in range(len(addresses), 0, -1):
            address = addresses[-tries_left]
            try:
                if self.proxy is None or is_listed(address, policy.allow):
                    return (self.dial or _dial)(address, target.port, deadline.left() / tries_left)
                return open_tunnel(self.proxy, self._authority(target, address), deadline.left() / tries_left)
            except OSError:
                if tries_left == 1:
                    raise
        raise AssertionError("unreachable: resolve() returns at least one address")

    def _authority(self, target: Target, address: Address) -> str:
        if self.proxy_by_name:
            return target.netloc
        return f"[{address}]:{target.port}" if address.version == 6 else f"{address}:{target.port}"


@contextmanager
def exchange(
    egress: Egress,
    policy: UrlPolicy,
    target: Target,
    deadline: Deadline,
    *,
    method: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
    max_read_bytes: int,
) -> Iterator[httpcore.Response]:
    """Send one request and give its response, whose body is yet to be read.

    `max_read_bytes` bounds what is received in all, headers and interim responses included. Raises `policy.refused`,
    `TIMEOUTS` and `FAILURES`, from the body's stream too.
    """
    length = {} if body is None else {"content-length": str(len(body))}
    sent = {**headers, "host": _host_header(target), "connection": "close", **length}
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    request = httpcore.Request(method, url, headers=list(sent.items()), content=body)
    network = _GuardedBackend(egress, policy, target, deadline, max_read_bytes)
    with httpcore.HTTPConnection(url.origin, ssl_context=egress.tls, network_backend=network) as connection:
        yield connection.handle_request(request)


def failure_text(error: Exception) -> str:
    """Return what one of `FAILURES` means to who named the URL."""
    if isinstance(error, httpcore.ProtocolError):
        return f"HTTP: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'the handshake failed'}"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"the connection failed: {reason}"


def _host_header(target: Target) -> str:
    is_default = {"http": 80, "https": 443}[target.scheme] == target.port
    return target.netloc.rpartition(":")[0] if is_default else target.netloc


class _GuardedBackend(httpcore.NetworkBackend):
    """httpcore's network: connects to the checked target, whatever host httpcore asks for."""

    def __init__(
        self, egress: Egress, policy: UrlPolicy, target: Target, deadline: Deadline, max_read_bytes: int
    ) -> None:
        self._egress = egress
        self._policy = policy
        self._target = target
        self._deadline = deadline
        self._max_read_bytes = max_read_bytes

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        del host, port, timeout, local_address, socket_options  # the target and the deadline decide
        connection = self._egress.connect(self._target, self._policy, self._deadline)
        return _DeadlineStream(connection, self._deadline, self._max_read_bytes)


class _DeadlineStream(httpcore.NetworkStream):
    """A socket whose every wait ends at the deadline; httpcore's own timeouts restart with each byte."""

    def __init__(self, connection: socket.socket, deadline: Deadline, max_read_bytes: int) -> None:
        self._socket = connection
        self._deadline = deadline
        self._max_read_bytes = max_read_bytes
        self._received = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        if self._received >= self._max_read_bytes:
            raise httpcore.RemoteProtocolError(f"more than {self._max_read_bytes >> 10} KiB were sent")
        self._socket.settimeout(self._deadline.left())
        data = self._socket.recv(max_bytes)
        self._received += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        view = memoryview(buffer)
        try:
            while view:
                self._socket.settimeout(self._deadline.left())
                view = view[self._socket.send(view) :]
        except (BrokenPipeError, ConnectionResetError) as error:
            raise httpcore.WriteError from error  # httpcore then reads: the server may have answered early

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        del timeout
        try:
            self._socket.settimeout(self._deadline.left())
            self._socket = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname)
        except BaseException:
            self._socket.close()
            raise
        return self
