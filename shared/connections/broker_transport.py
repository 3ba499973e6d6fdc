"""kombu's Redis transport on the connections of `redis_client.py`: no URL is read a second time.

kombu parses a URL itself: options it does not know become arguments of a connection, `rediss://` verifies no
certificate, and a `;` in a password separates two URLs. A channel here is given the `RedisEndpoint` as a transport
option, and takes its connections from pools built of it, by TCP, TLS, a socket or Sentinel.
"""

from typing import Any

from kombu.transport import redis as kombu_redis

from shared.connections.redis_client import broker_pool
from shared.connections.redis_endpoint import RedisEndpoint


class EndpointChannel(kombu_redis.Channel):
    """A channel to `endpoint`, a transport option."""

    endpoint: RedisEndpoint
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

    def _closed_connection(self, connection: Any) -> None:
        if self._registered:
            self._on_connection_disconnect(connection)  # type: ignore[no-untyped-call]


class EndpointTransport(kombu_redis.Transport):
    """The transport of `EndpointChannel`; kombu leaves the URL alone and only shows it."""

    Channel = EndpointChannel
    can_parse_url = True
