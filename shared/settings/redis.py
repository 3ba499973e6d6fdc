"""Settings of Redis."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from shared.connections.redis_endpoint import RedisEndpoint, TlsOptions, check_tls_files, parse_redis_url
from shared.settings.base import ProcessSettings, variable_name
from shared.settings.values import checked

_RedisUrl = Annotated[str, checked(parse_redis_url)]
_OtherRedisUrl = Annotated[str, checked(parse_redis_url, or_empty=True)]


class RedisSettings(ProcessSettings):
    """Where the job store, the broker and the text deltas are."""

    redis_url: _RedisUrl = Field(
        "redis://127.0.0.1:6379/0",
        description="job records and outbox; AOF on, noeviction; also `rediss://` (TLS, verified), `unix:///socket?db=0`"
        ", `redis-sentinel://host,host/service/0`, `rediss-sentinel://`",
    )
    broker_url: _OtherRedisUrl = Field("", description="Celery's Redis; empty: redis_url")
    events_url: _OtherRedisUrl = Field("", description="Redis for text deltas, may live without AOF; empty: redis_url")
    redis_prefix: str = Field(
        "tileq:", description="in front of every Redis key and queue; on a Redis Cluster with a hash tag: `{tileq}:`"
    )
    redis_ca_file: str = Field("", description="PEM of the authorities of `rediss://` servers; empty: the system's")
    redis_cert_file: str = Field("", description="PEM of this client's certificate, where the server asks for one")
    redis_key_file: str = Field("", description="PEM of its key, unless that is in redis_cert_file")
    redis_sentinel_username: str = Field("", description="user of the Sentinel nodes; the URL's is the primary's")
    redis_sentinel_password: SecretStr = Field(SecretStr(""), description="password of the Sentinel nodes")
    require_aof: bool = Field(True, description="take no job while the job store keeps no append-only file")
    redis_timeout: float = Field(5, gt=0, description="for one Redis round trip, connecting included")

    @model_validator(mode="after")
    def _usable_tls_files(self) -> Self:
        given = [name for name in ("redis_ca_file", "redis_cert_file", "redis_key_file") if getattr(self, name)]
        links = [tls for one in (self.store_endpoint, self.broker_endpoint, self.events_endpoint) if (tls := one.tls)]
        if given and not links:
            raise ValueError(f"{variable_name(given[0])} is set, but no Redis URL uses TLS: begin one with rediss://")
        if self.redis_key_file and not self.redis_cert_file:
            raise ValueError("TILEQ_REDIS_KEY_FILE is set without TILEQ_REDIS_CERT_FILE")
        for tls in links:
            check_tls_files(tls)
        return self

    @property
    def store_endpoint(self) -> RedisEndpoint:
        """The job store."""
        return self._endpoint(self.redis_url)

    @property
    def broker_endpoint(self) -> RedisEndpoint:
        """Celery's Redis."""
        return self._endpoint(self.broker_url or self.redis_url)

    @property
    def events_endpoint(self) -> RedisEndpoint:
        """The Redis that holds text deltas."""
        return self._endpoint(self.events_url or self.redis_url)

    def _endpoint(self, url: str) -> RedisEndpoint:
        return parse_redis_url(
            url,
            tls=TlsOptions(self.redis_ca_file, self.redis_cert_file, self.redis_key_file),
            sentinel_username=self.redis_sentinel_username or None,
            sentinel_password=self.redis_sentinel_password.get_secret_value() or None,
            timeout_s=self.redis_timeout,
        )
