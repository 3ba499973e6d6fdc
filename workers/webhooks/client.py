"""Sends one webhook POST to validated addresses only, within one deadline and a limit of bytes read.

The receiver may be slow, endless, broken or hostile. So the host is resolved once and every address must be permitted
(`shared.webhooks.ssrf`); the connection goes to those addresses with the TLS of the name, directly or through the
egress proxy of the settings; redirects, proxies of the environment and connection reuse are off; one deadline covers
resolving, connecting, sending and the response.
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
from shared.settings import WebhookSettings
from shared.webhooks.ssrf import (
    Address,
    Lookup,
    Target,
    allowed_networks,
    check_url,
    is_listed,
    refuse_unless_all_permitted,
    resolve,
)
from workers.webhooks.tunnel import open_tunnel

#: Of the response body. The status decides; the body is only for the log of attempts.
MAX_BODY_BYTES = 4 << 10
#: Of the whole response, interim responses and headers included (h11 accepts headers of 100 KiB).
MAX_READ_BYTES = 192 << 10
#: Waiting for the response body, once the status is known.
BODY_TIMEOUT_S = 2.0

Dial = Callable[[Address, int, float], socket.socket]


@dataclass(frozen=True)
class DeliveryResponse:
    """Result of an attempt: a status, or the `error` that prevented one."""

    status: int | None = None
    retry_after: str = ""
    body: bytes = b""
    error: str | None = None
    seconds: float = 0


class WebhookClient:
    """Posts webhooks; safe to share between threads. Tests replace `lookup`, `dial` and `tls`."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        lookup: Lookup | None = None,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._lookup = lookup
        self._dial = dial or _dial
        self._tls = tls or _tls_context(settings)
        self._proxy = settings.webhook_proxy_endpoint

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, keyless: bool) -> DeliveryResponse:
        """Send once and return the response, or the error of the receiver, its name or its network; raises neither."""
        begun = time.monotonic()
        deadline = _Deadline(begun + self._settings.webhook_timeout)
        try:
            target = check_url(url, self._settings, keyless)
            answer = self._exchange(target, body, headers, _GuardedBackend(self, target, keyless, deadline))
        except WebhookRefused as refused:
            answer = DeliveryResponse(error=refused.detail)
        except (TimeoutError, httpcore.TimeoutException):
            answer = DeliveryResponse(error=f"no response within {self._settings.webhook_timeout:g} s")
        except httpcore.ProtocolError as broken:
            answer = DeliveryResponse(error=f"HTTP: {broken}")
        except ssl.SSLCertVerificationError as distrusted:
            answer = DeliveryResponse(error=f"TLS: {distrusted.verify_message}")
        except ssl.SSLError as broken:
            answer = DeliveryResponse(error=f"TLS: {broken.reason or 'the handshake failed'}")
        except (OSError, httpcore.NetworkError) as broken:
            reason = getattr(broken, "strerror", None) or str(broken) or type(broken).__name__
            answer = DeliveryResponse(error=f"the connection failed: {reason}")
        return replace(answer, seconds=time.monotonic() - begun)

    def _exchange(
        self, target: Target, body: bytes, headers: Mapping[str, str], network: "_GuardedBackend"
    ) -> DeliveryResponse:
        sent = {**headers, "host": _host_header(target), "connection": "close", "content-length": str(len(body))}
        url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        request = httpcore.Request("POST", url, headers=list(sent.items()), content=body)
        with httpcore.HTTPConnection(url.origin, ssl_context=self._tls, network_backend=network) as connection:
            response = connection.handle_request(request)
            named = {name.lower(): value for name, value in response.headers}
            network.deadline.shorten(BODY_TIMEOUT_S)
            return DeliveryResponse(
                status=response.status,
                retry_after=named.get(b"retry-after", b"").decode("latin-1"),
                body=_first_bytes(response.iter_stream()),
            )

    def connect(self, target: Target, keyless: bool, deadline: "_Deadline") -> socket.socket:
        """Resolve the host once, refuse unless every address is permitted, connect to the first one that accepts."""
        addresses = resolve(target.host, target.port, deadline.left(), self._lookup)
        refuse_unless_all_permitted(target, addresses, self._settings, keyless)
        direct = allowed_networks(self._settings, keyless)
        for tries_left in range(len(addresses), 0, -1):
            address = addresses[-tries_left]
            try:
                if self._proxy is None or is_listed(address, direct):
                    return self._dial(address, target.port, deadline.left() / tries_left)
                return open_tunnel(self._proxy, self._authority(target, address), deadline.left() / tries_left)
            except OSError:
                if tries_left == 1:
                    raise
        raise AssertionError("unreachable: resolve() returns at least one address")

    def _authority(self, target: Target, address: Address) -> str:
        if self._settings.webhook_proxy_by_name:
            return target.netloc
        return f"[{address}]:{target.port}" if address.version == 6 else f"{address}:{target.port}"


class _Deadline:
    """The end of an attempt on the monotonic clock, for every wait in it."""

    def __init__(self, moment: float) -> None:
        self._moment = moment

    def left(self) -> float:
        left = self._moment - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def shorten(self, seconds: float) -> None:
        self._moment = min(self._moment, time.monotonic() + seconds)


class _GuardedBackend(httpcore.NetworkBackend):
    """httpcore's network: connects to the checked target, whatever host httpcore asks for."""

    def __init__(self, client: WebhookClient, target: Target, keyless: bool, deadline: _Deadline) -> None:
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
        del host, port, timeout, local_address, socket_options  # the target and the deadline decide
        return _DeadlineStream(self._client.connect(self._target, self._keyless, self.deadline), self.deadline)


class _DeadlineStream(httpcore.NetworkStream):
    """A socket whose every wait ends at the deadline; httpcore's own timeouts restart with each byte."""

    def __init__(self, connection: socket.socket, deadline: _Deadline) -> None:
        self._socket = connection
        self._deadline = deadline
        self._received = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        del timeout
        if self._received >= MAX_READ_BYTES:
            raise httpcore.RemoteProtocolError(f"more than {MAX_READ_BYTES >> 10} KiB before its body")
        self._socket.settimeout(self._deadline.left())
        data = self._socket.recv(min(max_bytes, MAX_BODY_BYTES))
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
            raise httpcore.WriteError from error  # httpcore then reads: the receiver may have answered early

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


def _tls_context(settings: WebhookSettings) -> ssl.SSLContext:
    """Return a context that trusts the public authorities and those of `webhook_ca_file`."""
    context = httpx.create_ssl_context()
    if settings.webhook_ca_file:
        context.load_verify_locations(settings.webhook_ca_file)
    return context


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
    is_default = {"http": 80, "https": 443}[target.scheme] == target.port
    return target.netloc.rpartition(":")[0] if is_default else target.netloc


def _first_bytes(chunks: Iterable[bytes]) -> bytes:
    """Return the first bytes of a body, as far as they were received: the status is known already."""
    received = b""
    try:
        for chunk in chunks:
            received += chunk
            if len(received) >= MAX_BODY_BYTES:
                break
    except (OSError, httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException):
        pass
    return received[:MAX_BODY_BYTES]
