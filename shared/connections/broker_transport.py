"""kombu's Redis transport on the connections of `redis_client.py`: no URL is read a second time.

kombu parses a URL itself: options it does not know become arguments of a connection, `rediss://` verifies no
certificate, and a `;` in a password separates two URLs. A channel here is given the `RedisEndpoint` as a transport
option, and takes its connections from pools built of it, by TCP, TLS, a socket or Sentinel.
"""

from queue import Empty
from typing import Any

import structlog
from kombu.transport import redis as kombu_redis
from prometheus_client import Counter
from redis.exceptions import RedisError

from shared.connections.hint_envelope import envelope_problem
from shared.connections.redis_client import broker_pool
from shared.connections.redis_endpoint import RedisEndpoint

DROPPED = Counter("tileq_messages_dropped_total", "Messages of the broker that were dropped because they were no hints")
UNACKNOWLEDGED = Counter(
    "tileq_messages_unacknowledged_total", "Messages whose acknowledgement failed; the broker delivers them again, late"
)
log = structlog.get_logger(__name__)


class UnacknowledgedQoS(kombu_redis.QoS):
    """Counts a message as done although its acknowledgement failed; it stays in `unacked` and comes again.

    kombu would count it as in hand for as long as the connection lasts. With every slot's hint in hand the consumer
    does not look at its connection, so that it would never learn that it was lost, and take no hint ever again.
    """

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            self._give_up(delivery_tag, error)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop a message, or put it back into its queue."""
        try:
            super().reject(delivery_tag, requeue)  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            self._give_up(delivery_tag, error)

    def _give_up(self, delivery_tag: str, error: Exception) -> None:
        UNACKNOWLEDGED.inc()
        log.warning("message not acknowledged, the broker delivers it again", error=str(error))
        self._quick_ack(delivery_tag)


class EndpointChannel(kombu_redis.Channel):
    """A channel to `endpoint`, a transport option."""

    endpoint: RedisEndpoint
    QoS = UnacknowledgedQoS
    _pooled_client: Any = None
    from_transport_options: Any = (*kombu_redis.Channel.from_transport_options, "endpoint")

    def _get_pool(self, asynchronous: bool = False) -> Any:
        """Return a pool; an `asynchronous` one serves the consumer, whose event loop must hear of closed sockets."""
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=self.endpoint.db)
        return broker_pool(self.endpoint, self.max_connections, self._closed_connection if asynchronous else None)

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Return one client for each pool: kombu makes one for each append and acknowledgement.

        A client of redis-py holds no connection of its own and may be shared by threads.
        """
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        client = self._pooled_client
        if client is None or client.connection_pool is not self.pool:  # the pool is replaced after a lost connection
            client = self._pooled_client = super()._create_client()  # type: ignore[no-untyped-call]
        return client

    def _brpop_read(self, **options: Any) -> Any:
        """Take a message off the list; drop one that is not JSON, whose error would end Celery's consumer."""
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (ValueError, RecursionError) as error:
            _drop(f"it is not JSON: {error}")
            raise Empty from error

    def _closed_connection(self, connection: Any) -> None:
        if self._registered:
            self._on_connection_disconnect(connection)  # type: ignore[no-untyped-call]


class EndpointTransport(kombu_redis.Transport):
    """The transport of `EndpointChannel`; kombu leaves the URL alone and only shows it."""

    Channel = EndpointChannel
    can_parse_url = True

    def _deliver(self, message: Any, queue: str) -> None:
        """Pass a hint on; drop every other message, which could end Celery's consumer."""
        if problem := envelope_problem(message, queue):
            _drop(problem)
        else:
            super()._deliver(message, queue)  # type: ignore[no-untyped-call]


def _drop(problem: str) -> None:
    DROPPED.inc()
    log.error("message dropped: it is no hint", problem=problem)
