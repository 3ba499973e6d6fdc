"""What can be judged of the Redis servers when a process starts, once its settings are read.

A server that does not answer yet is no reason to stop: connections are tried for as long as the process runs.
"""

from dataclasses import replace

import structlog
from redis.exceptions import RedisError

from shared.connections.redis_client import connect
from shared.settings.base import SettingsError
from shared.settings.redis import RedisSettings
from shared.store.cluster import cluster_problem

TIMEOUT_S = 2.0  #: for one round trip at start, where TILEQ_REDIS_TIMEOUT allows more
log = structlog.get_logger(__name__)


def refuse_unsuitable_servers(settings: RedisSettings) -> None:
    """Raise `SettingsError` where a server answers and cannot be served, with the cure."""
    for endpoint in dict.fromkeys((settings.store_endpoint, settings.broker_endpoint, settings.events_endpoint)):
        if endpoint.tls and not endpoint.tls.verify:
            log.warning("certificate of Redis is not verified, as its URL says", server=endpoint.address)
        try:
            with connect(replace(endpoint, timeout_s=min(endpoint.timeout_s, TIMEOUT_S))) as client:
                info = client.info()
        except RedisError as error:
            log.warning("Redis not judged at start", server=endpoint.address, error=str(error))
            continue
        if problem := cluster_problem(info, settings.redis_prefix):
            raise SettingsError(f"{endpoint.address}: {problem}")
