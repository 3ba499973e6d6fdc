"""One POST to a stranger: to checked addresses only, within one deadline, reading little of what comes back.

The receiver may be slow, endless, broken or an attack. So: one look-up whose every address must be permitted, a
connection to those very addresses with the name's TLS, no redirects, no proxies, no reuse of connections, one deadline
over resolving, connecting, sending and answering, and a limit on all bytes read.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpcore
import httpx

from shared.errors import WebhookRefused
from shared.settings import Settings
from shared.webhooks.ssrf import Address, Lookup, Target, check_url, refuse_unless_all_permitted, resolve

#: Of the answer's body; the status decides, the body is only for the log.
MOST_BODY = 4 << 10
#: Of everything that comes back, interim answers and headers included (h11 takes headers of 100 KiB).
MOST_READ = 192 << 10
#: Seconds that the body of an answer is waited for.
BODY_WITHIN = 2.0

Dial = Callable[[Address, int, float], socket.socket]


@dataclass(frozen=True)
class Answer:
    """What an attempt saw: a status, or the `error` that came instead."""

    status: int | None = None
    retry_after: str = ""
    body: bytes = b""
    error: str | None = None
    seconds: float = 0


class Client:
    """Posts webhooks; safe to share between threads. `lookup`, `dial` and `tls` are the seams of its tests."""

    def __init__(
        self,
        settings: Settings,
        *,
        lookup: Lookup | None = None,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._lookup = lookup
        self._dial = dial or _dial
        self._tls = tls or httpx.create_ssl_context()

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, keyless: bool) -> Answer:
        """Send once and tell what came of it; never raises for what a receiver, its name or its network does."""
        begun = time.monotonic()
        deadline = _Deadline(begun + self._settings.webhook_timeout)
        try:
            target = check_url(url, self._settings, keyless)
            answer = self._exchange(target, body, headers, _Network(self, target, keyless, deadline))
        except WebhookRefused as refusal:
            answer = Answer(error=refusal.detail)
        except (TimeoutError, httpcore.TimeoutException):
            answer = Answer(error=f"no answer within {self._settings.webhook_timeout:g} s")
        except httpcore.ProtocolError as broken:
            answer = Answer(error=f"HTTP: {broken}")
        except ssl.SSLCertVerificationError as distrusted:
            answer = Answer(error=f"TLS: {distrusted.verify_message}")
        except ssl.SSLError as broken:
            answer = Answer(error=f"TLS: {broken.reason or 'the handshake failed'}")
        except (OSError, httpcore.NetworkError) as broken:
            told = getattr(broken, "strerror", None) or str(broken) or type(broken).__name__
            answer = Answer(error=f"the connection failed: {told}")
        return replace(answer, seconds=time.monotonic() - begun)

    def _exchange(self, target: Target, body: bytes, headers: Mapping[str, str], network: "_Network") -> Answer:
        sent = {**headers, "host": _host_header(target), "connection": "close", "content-length": str(len(body))}
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        request = httpcore.Request("POST", url, headers=list(sent.items()), content=body)
        with httpcore.HTTPConnection(url.origin, ssl_context=self._tls, network_backend=network) as connection:
            response = connection.handle_request(request)
            named = {name.lower(): value for name, value in response.headers}
            network.deadline.shorten(BODY_WITHIN)
            return Answer(
                status=response.status,
                retry_after=named.get(b"retry-after", b"").decode("latin-1"),
                body=_start(response.iter_stream()),
            )

    def connect(self, target: Target, keyless: bool, deadline: "_Deadline") -> socket.socket:
        """Look the name up once, refuse unless all of it is permitted, connect to the first address that answers."""
        addresses = resolve(target.host, target.port, deadline.left(), self._lookup)
        refuse_unless_all_permitted(target, addresses, self._settings, keyless)
        for tries_left in range(len(addresses), 0, -1):
            address = addresses[-tries_left]
            try:
                return self._dial(address, target.port, deadline.left() / tries_left)
            except OSError:
                if tries_left == 1:
                    raise
        raise AssertionError("unreachable: resolve() returns at least one address")


class _Deadline:
    """A moment of the monotonic clock that every wait of an attempt ends at."""

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def left(self) -> float:
        left = self._moment - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def shorten(self, seconds: float) -> None:
        self._moment = min(self._moment, time.monotonic() + seconds)


class _Network(httpcore.NetworkBackend):
    """What httpcore connects through: there is no way past the guard, whatever host it asks for."""

    def __init__(self, client: Client, target: Target, keyless: bool, deadline: _Deadline) -> None:
        self._client = client
        self._target = target
        self._keyless = keyless
        self.deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        del host, port, timeout, local_address, socket_options  # the target and its deadline say it all
        return _Stream(self._client.connect(self._target, self._keyless, self.deadline), self.deadline)


class _Stream(httpcore.NetworkStream):
    """A socket whose every wait ends at the deadline; httpcore's own timeouts begin anew with each byte."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self._socket = connection
        self._deadline = deadline
        self._read = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        if self._read >= MOST_READ:
            raise httpcore.RemoteProtocolError(f"more than {MOST_READ >> 10} KiB before its body")
        self._socket.settimeout(self._deadline.left())
        data = self._socket.recv(min(max_bytes, MOST_BODY))
        self._read += len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        del timeout
        view = memoryview(buffer)
        try:
            while view:
                self._socket.settimeout(self._deadline.left())
                view = view[self._socket.send(view) :]
        except (BrokenPipeError, ConnectionResetError) as error:
            raise httpcore.WriteError from error  # httpcore then reads on: the receiver may have answered early

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


def _dial(address: Address, port: int, timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect((str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection


def _host_header(target: Target) -> str:
    usual = {"http": 80, "https": 443}[target.scheme] == target.port
    return target.netloc.rpartition(":")[0] if usual else target.netloc


def _start(chunks: Iterable[bytes]) -> bytes:
    """Return the first bytes of a body, or what of them came in time and order: the status is known already."""
    start = b""
    try:
        for chunk in chunks:
            start += chunk
            if len(start) >= MOST_BODY:
                break
    except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        pass
    return start[:MOST_BODY]
