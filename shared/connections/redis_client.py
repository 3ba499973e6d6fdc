"""Clients of a `RedisEndpoint`: redis-py's, its asyncio client, and the pools of kombu's channels (`broker.py`).

All of them use the connections below, which leave a server that stopped taking writes: after a failover a demoted
primary keeps its connections open and answers READONLY. Such an answer closes the connection, and every other one of
the pool before its next command; the command was not carried out, so the client's retry sends it to the new primary.
"""

from collections.abc import Callable
from typing import Any

import redis
import redis.asyncio
import structlog
from prometheus_client import Counter
from redis import sentinel
from redis._parsers import _RESP2Parser
from redis.asyncio import sentinel as async_sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MovedError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from shared.connections.redis_endpoint import RedisEndpoint

HEALTH_CHECK_S = 15
BROKER_READ_S = 2.0  #: beyond the time-out of a round trip: kombu's BRPOP waits 1 s at the server
RETRIES, RETRY_CAP_S = 2, 0.5

_NO_PRIMARY = "a node answers, and knows no such service or holds its primary to be down"
LEFT = Counter("tileq_redis_primary_changes_total", "Answers by which a server said that it no longer takes writes")
log = structlog.get_logger(__name__)


class NotPrimary(ConnectionError):
    """The server answered that it takes no writes (any more), so the command was not carried out."""


class Primary:
    """The server that takes writes, as the connections of one pool see it: how to find it and how often it changed."""

    def __init__(self, endpoint: RedisEndpoint) -> None:
        self.endpoint = endpoint
        self.changes = 0

    def locate(self) -> tuple[str, int] | None:
        """Return host and port of the primary that Sentinel names; None where the endpoint names the server itself."""
        if not self.endpoint.sentinels:
            return None
        nodes_of = sentinel.Sentinel(  # type: ignore[no-untyped-call]
            self.endpoint.sentinels, sentinel_kwargs=_sentinel_options(self.endpoint, Retry(NoBackoff(), 0))
        )
        with nodes_of as nodes:
            try:
                host, port = nodes.discover_master(self.endpoint.service)
            except sentinel.MasterNotFoundError:
                raise self._not_found([_answer_of(node) for node in nodes.sentinels]) from None
        return str(host), int(port)

    async def locate_async(self) -> tuple[str, int] | None:
        """Do the same on the event loop."""
        if not self.endpoint.sentinels:
            return None
        nodes = async_sentinel.Sentinel(  # type: ignore[no-untyped-call]
            self.endpoint.sentinels, sentinel_kwargs=_sentinel_options(self.endpoint, AsyncRetry(NoBackoff(), 0))
        )
        try:
            host, port = await nodes.discover_master(self.endpoint.service)
        except async_sentinel.MasterNotFoundError:
            raise self._not_found([await _answer_of_async(node) for node in nodes.sentinels]) from None
        finally:
            for node in nodes.sentinels:
                await node.aclose()
        return str(host), int(port)

    def changed(self, error: ResponseError) -> NotPrimary:
        """Note that a server refused a write; return the error to raise."""
        self.changes += 1
        LEFT.inc()
        log.warning("Redis server takes no writes, connecting anew", error=str(error))
        if isinstance(error, MovedError):
            node = f"{error.host}:{error.port}"
            return NotPrimary(
                f"this node of a Redis Cluster does not hold tileq's keys: name {node} in the URL instead"
            )
        return NotPrimary(f"the server takes no writes: {error}")

    def _not_found(self, answers: list[str]) -> ConnectionError:
        told = "; ".join(answers)
        return ConnectionError(f"no node of Sentinel names a primary of the service {self.endpoint.service!r}: {told}")


def _answer_of(node: Any) -> str:
    """Return why a node of Sentinel named no primary; redis-py's own message keeps the reasons back."""
    try:
        node.ping()
    except RedisError as error:
        return str(error)
    return _NO_PRIMARY


async def _answer_of_async(node: Any) -> str:
    try:
        await node.ping()
    except RedisError as error:
        return str(error)
    return _NO_PRIMARY


def refuses_writes(error: ResponseError) -> bool:
    """Tell whether `error` says that another server is the primary now, or that this one is cut off from it."""
    if isinstance(error, ReadOnlyError | MasterDownError | MovedError | ClusterDownError):
        return True
    # UNBLOCKED ends a BRPOP of a demoted primary; Redis 6.2 wraps the READONLY of a script in its own sentence.
    return str(error).startswith(("UNBLOCKED", "NOREPLICAS")) or "-READONLY" in str(error)


class _PrimaryLink:
    """Mixin of a synchronous connection: connects to the primary, and leaves a server that is not."""

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        self._primary = primary
        self._changes_seen = primary.changes
        super().__init__(**options)

    def _connect(self) -> Any:
        self._changes_seen = self._primary.changes
        if found := self._primary.locate():
            self.host, self.port = found
        return super()._connect()  # type: ignore[misc]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._sock and self._changes_seen != self._primary.changes:  # type: ignore[attr-defined]
            self.disconnect()  # type: ignore[attr-defined]
        super().send_packed_command(command, check_health)  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            if not refuses_writes(error):
                raise
            self.disconnect()  # type: ignore[attr-defined]
            raise self._primary.changed(error) from error


class _AsyncPrimaryLink:
    """The same of an asyncio connection."""

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        self._primary = primary
        self._changes_seen = primary.changes
        super().__init__(**options)

    async def _connect(self) -> None:
        self._changes_seen = self._primary.changes
        if found := await self._primary.locate_async():
            self.host, self.port = found
        await super()._connect()  # type: ignore[misc]

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self.is_connected and self._changes_seen != self._primary.changes:  # type: ignore[attr-defined]
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
        await super().send_packed_command(command, check_health)  # type: ignore[misc]

    async def _send_packed_command(self, command: Any) -> None:
        try:
            await super()._send_packed_command(command)  # type: ignore[misc]
        except RuntimeError as error:  # uvloop's, where the peer has reset the connection; asyncio's is an OSError
            raise ConnectionError(f"the connection was closed: {error}") from error

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            if not refuses_writes(error):
                raise
            await self.disconnect(nowait=True)  # type: ignore[attr-defined]
            raise self._primary.changed(error) from error


class TcpLink(_PrimaryLink, redis.Connection):
    """Over TCP."""


class TlsLink(_PrimaryLink, redis.SSLConnection):
    """Over TCP with TLS.

    Replies are parsed in Python: to hiredis a readable socket has unread data, and the session tickets of TLS 1.3 make
    it readable; redis-py refuses such a connection as "not ready".
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(parser_class=_RESP2Parser, **options)


class SocketLink(_PrimaryLink, redis.UnixDomainSocketConnection):
    """Over a socket of this machine."""


class AsyncTcpLink(_AsyncPrimaryLink, redis.asyncio.Connection):
    """Over TCP."""


class AsyncTlsLink(_AsyncPrimaryLink, redis.asyncio.SSLConnection):
    """Over TCP with TLS."""


class AsyncSocketLink(_AsyncPrimaryLink, redis.asyncio.UnixDomainSocketConnection):
    """Over a socket of this machine."""


def connect(endpoint: RedisEndpoint) -> "redis.Redis":
    """Return a synchronous client with bounded waits; nothing is sent yet."""
    pool = redis.ConnectionPool(
        connection_class=_link_class(endpoint),
        **_options(endpoint),
        primary=Primary(endpoint),
        decode_responses=True,
        retry=Retry(ExponentialWithJitterBackoff(cap=RETRY_CAP_S), RETRIES),
    )
    return redis.Redis.from_pool(pool)


def connect_async(endpoint: RedisEndpoint, connections: int = 64) -> "redis.asyncio.Redis":
    """Return an asynchronous client with bounded waits; nothing is sent yet. Beyond `connections`, commands wait."""
    pool = redis.asyncio.BlockingConnectionPool(
        connection_class=_async_link_class(endpoint),
        **_options(endpoint),
        primary=Primary(endpoint),
        decode_responses=True,
        retry=AsyncRetry(ExponentialWithJitterBackoff(cap=RETRY_CAP_S), RETRIES),
        max_connections=connections,
        timeout=endpoint.timeout_s,
    )
    return redis.asyncio.Redis.from_pool(pool)


def broker_pool(
    endpoint: RedisEndpoint, connections: int, on_disconnect: Callable[[Any], None] | None = None
) -> "redis.ConnectionPool":
    """Return a pool for a channel of kombu; with `on_disconnect`, for its consumer, which does not retry by itself."""
    link = _link_class(endpoint)
    options = _options(endpoint) | {"socket_timeout": endpoint.timeout_s + BROKER_READ_S}
    retries = 1
    if on_disconnect:
        link, retries = _reporting(link, on_disconnect), 0
    return redis.ConnectionPool(
        connection_class=link,
        **options,
        primary=Primary(endpoint),
        retry=Retry(NoBackoff(), retries),
        max_connections=connections,
    )


def _reporting(link: type[Any], on_disconnect: Callable[[Any], None]) -> type[Any]:
    class ReportingLink(link):  # type: ignore[misc]
        """Tells the channel when it is closed, whose event loop polls the socket."""

        def disconnect(self, *args: Any, **options: Any) -> None:
            super().disconnect(*args, **options)
            on_disconnect(self)

    return ReportingLink


def _link_class(endpoint: RedisEndpoint) -> type[Any]:
    return SocketLink if endpoint.path else TlsLink if endpoint.tls else TcpLink


def _async_link_class(endpoint: RedisEndpoint) -> type[Any]:
    return AsyncSocketLink if endpoint.path else AsyncTlsLink if endpoint.tls else AsyncTcpLink


def _options(endpoint: RedisEndpoint) -> dict[str, Any]:
    """Return the arguments of a connection; every client library gets the same ones."""
    options = _common_options(endpoint) | {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": endpoint.password,
        "health_check_interval": HEALTH_CHECK_S,
    }
    if endpoint.path:
        return options | {"path": endpoint.path}
    return options | _tls_options(endpoint) | {"host": endpoint.host, "port": endpoint.port, "socket_keepalive": True}


def _sentinel_options(endpoint: RedisEndpoint, retry: Retry | AsyncRetry) -> dict[str, Any]:
    # The next node is the retry: by itself, redis-py would wait seconds for each node that is down.
    options = _common_options(endpoint) | {
        "username": endpoint.sentinel_username,
        "password": endpoint.sentinel_password,
        "socket_keepalive": True,
        "retry": retry,
    }
    return options | _tls_options(endpoint) | ({"ssl": True} if endpoint.tls else {})


def _common_options(endpoint: RedisEndpoint) -> dict[str, Any]:
    return {
        "socket_timeout": endpoint.timeout_s,
        "socket_connect_timeout": endpoint.timeout_s,
        # RESP2 needs no HELLO and no CLIENT SETINFO, which managed services and ACLs may deny.
        "protocol": 2,
        "driver_info": None,
    }


def _tls_options(endpoint: RedisEndpoint) -> dict[str, Any]:
    tls = endpoint.tls
    if tls is None:
        return {}
    return {
        "ssl_cert_reqs": "required" if tls.verify else "none",
        "ssl_check_hostname": tls.check_hostname,
        "ssl_ca_certs": tls.ca_file or None,
        "ssl_certfile": tls.cert_file or None,
        "ssl_keyfile": tls.key_file or None,
    }
