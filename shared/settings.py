"""Every setting of every process: typed groups, read once at the start by `shared/environment.py` and passed on.

Times are seconds, sizes bytes, unless the name says otherwise. A process reads the groups that it uses; a variable has
the same name everywhere. The table in `docs/settings.md` is written from `Settings`, which holds all groups.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.connections.redis_endpoint import RedisEndpoint, TlsOptions, check_tls_files, parse_redis_url
from shared.connections.s3_endpoint import S3Endpoint, check_bucket_name, check_ca_file, normal_prefix, parse_s3_url
from shared.encryption import Keyring
from shared.jobs import Priority
from shared.limits import TenantLimits
from shared.outbound.proxy import ProxyEndpoint, parse_proxy_url

PREFIX = "TILEQ_"

#: Waits after a failed attempt before the next ones, in seconds (Svix's schedule, Standard Webhooks 1.0).
WEBHOOK_SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)

Network = IPv4Network | IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]
Commas = NoDecode  # lists come as "a,b", not as JSON


class SettingsError(ValueError):
    """A setting is missing, unreadable or refused; the message names the variable and never its value."""


class ProcessSettings(BaseSettings):
    """Settings of every process. `TILEQ_NAME` sets the field `name`; `TILEQ_NAME_FILE` names a file that holds it."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, allow_inf_nan=False)

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level written")
    log_format: Literal["json", "console"] = Field(
        "json", description="`json`: one object a line; `console`: for people"
    )
    metrics_host: str = Field("127.0.0.1", description="address of /metrics, /livez and /readyz of every process")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="port of /metrics, /livez and /readyz of this process; 0: none"
    )


class RedisSettings(ProcessSettings):
    """Where the job store, the broker and the text deltas are."""

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        description="job records and outbox; AOF on, noeviction; also `rediss://` (TLS, verified), `unix:///socket?db=0`"
        ", `redis-sentinel://host,host/service/0`, `rediss-sentinel://`",
    )
    broker_url: str = Field("", description="Celery's Redis; empty: redis_url")
    events_url: str = Field("", description="Redis for text deltas, may live without AOF; empty: redis_url")
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

    @field_validator("redis_url", "broker_url", "events_url")
    @classmethod
    def _readable_redis_url(cls, value: str, info: ValidationInfo) -> str:
        if value or info.field_name == "redis_url":
            parse_redis_url(value)
        return value

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


class StorageSettings(ProcessSettings):
    """Where the object storage is."""

    s3_url: str = Field("http://127.0.0.1:9000", description="S3 server, scheme and port included, no path")
    s3_public_url: str = Field(
        "", description="address of the S3 server for clients, who put uploads there by presigned URLs; empty: none do"
    )
    s3_access_key: str = Field(
        "",
        description="S3 access key; empty: AWS's variables (`AWS_ACCESS_KEY_ID` …), then the role of the pod or task",
    )
    s3_secret_key: SecretStr = Field(SecretStr(""), description="S3 secret key")
    s3_session_token: SecretStr = Field(SecretStr(""), description="session token, where the keys are temporary")
    s3_region: str = Field("", description="S3 region; empty: the one in s3_url, else us-east-1")
    s3_bucket: str = Field("tileq", description="bucket for images, manifests and results; made if absent")
    s3_prefix: str = Field("", description="in front of every key, for a bucket that is shared: `team/tileq`")
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto", description="`virtual`: the bucket in the host name; `auto`: at AWS virtual, elsewhere `path`"
    )
    s3_ca_file: str = Field("", description="PEM of the authorities of the S3 server; empty: the system's")
    s3_timeout: float = Field(20, gt=0, description="for one S3 request")

    @field_validator("s3_bucket")
    @classmethod
    def _allowed_bucket(cls, value: str) -> str:
        check_bucket_name(value)
        return value

    @field_validator("s3_prefix")
    @classmethod
    def _normal_prefix(cls, value: str) -> str:
        return normal_prefix(value)

    @field_validator("s3_url", "s3_public_url")
    @classmethod
    def _readable_s3_url(cls, value: str, info: ValidationInfo) -> str:
        if value or info.field_name == "s3_url":
            parse_s3_url(value)
        return value

    @field_validator("s3_ca_file")
    @classmethod
    def _usable_s3_ca_file(cls, value: str) -> str:
        return _usable_ca_file(value)

    @model_validator(mode="after")
    def _consistent_storage(self) -> Self:
        variable = "TILEQ_S3_URL"
        try:
            endpoint, variable = self.s3_endpoint, "TILEQ_S3_PUBLIC_URL"
            _ = self.s3_public_endpoint
        except ValueError as error:
            raise ValueError(f"{variable}: {error}") from None
        if self.s3_ca_file and not endpoint.secure:
            raise ValueError("TILEQ_S3_CA_FILE is set, but TILEQ_S3_URL uses no TLS: begin it with https://")
        if bool(self.s3_access_key) != bool(self.s3_secret_key.get_secret_value()):
            raise ValueError("set both of TILEQ_S3_ACCESS_KEY and TILEQ_S3_SECRET_KEY, or none")
        if self.s3_session_token.get_secret_value() and not self.s3_access_key:
            raise ValueError("TILEQ_S3_SESSION_TOKEN is set without the keys that it belongs to")
        return self

    @property
    def s3_endpoint(self) -> S3Endpoint:
        """The S3 server."""
        return parse_s3_url(self.s3_url, self.s3_region)

    @property
    def s3_public_endpoint(self) -> S3Endpoint | None:
        """The S3 server as clients reach it, in the same region; None where they don't."""
        return parse_s3_url(self.s3_public_url, self.s3_endpoint.region) if self.s3_public_url else None


class KeySettings(ProcessSettings):
    """API keys that the deployment fixes."""

    api_keys: Annotated[tuple[str, ...], Commas] = Field(
        (), description="keys fixed by the deployment, `tenant=tq_…` separated by commas, beside those of `tileq keys`"
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split_keys(cls, value: object) -> object:
        return _split(value)


class HttpSettings(KeySettings):
    """The HTTP API."""

    host: str = Field("127.0.0.1", description="address the API binds; anything but loopback needs keys")
    port: int = Field(8000, ge=0, le=65535, description="port of the API")
    key_cache: float = Field(
        5, ge=0, description="an API key is cached for this long; a revoked one is refused by then"
    )
    body_timeout: float = Field(30, gt=0, description="longest pause while a request body is read")
    keep_alive: int = Field(
        75, ge=1, description="an idle connection is kept open for this long; more than a load balancer's own value"
    )
    root_path: str = Field("", description="path under which a reverse proxy serves the API, such as `/vision`")
    openapi: bool = Field(True, description="serve /openapi.json, to everybody")
    max_streams: int = Field(256, ge=1, description="event streams that one intake process holds open at once")
    http_processes: int = Field(
        1, ge=1, le=64, description="intake processes that answer on this port, each with an event loop of its own"
    )
    response_wait: float = Field(
        590, gt=0, le=86_400, description="a waiting call of OpenAI's routes is answered after this long at the latest"
    )

    @field_validator("root_path")
    @classmethod
    def _path_prefix(cls, value: str) -> str:
        if value and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", value):
            raise ValueError("must be a path such as /vision, without a slash at its end")
        return value


class ImageSettings(ProcessSettings):
    """What an image may be, and how it is shown to the model; intake and the worker apply the same values."""

    max_image_bytes: int = Field(20 << 20, ge=1, description="one image as sent")
    max_image_pixels: int = Field(50_000_000, ge=1, description="width x height of one image, from its header")
    max_image_side: int = Field(32_768, ge=1, description="longest side of one image, pixels")
    max_missing_rows: float = Field(
        0.1, ge=0, le=1, description="share of rows that a truncated image may lack; it gets a `warning`; 0: refused"
    )
    image_mode: Literal["natural", "original"] = Field(
        "natural", description="`natural`: as a viewer shows it; `original`: as the model card's code decodes it"
    )


class RequestSettings(ImageSettings):
    """What a request may hold."""

    max_body_bytes: int = Field(64 << 20, ge=1, description="one request, all images and fields")
    max_json_memory: int = Field(
        512 << 20,
        ge=1,
        description="JSON bodies that one intake process holds at once, bytes; above it, 503 overloaded",
    )
    max_file_bytes: int = Field(
        200 << 20, ge=1, description="one file of `POST /v1/files`; of an image, max_image_bytes"
    )
    max_images: int = Field(32, ge=1, description="images of one job, those of its parents included")
    max_tiles: int = Field(200, ge=1, description="tiles of one job, all images and thumbnails together")
    max_new_tokens: int = Field(4_096, ge=1, description="largest `max_new_tokens` of a request")
    max_batch_jobs: int = Field(1_000, ge=1, description="jobs of one batch")
    max_queued: int = Field(100_000, ge=1, description="queued jobs of the service; above it, 503 overloaded")


class ImageUrlSettings(ProcessSettings):
    """Images that requests name by URL: intake judges the text, vision workers fetch them."""

    image_urls: bool = Field(False, description="let requests name images by URL; vision workers need a way out then")
    image_url_allow: Annotated[tuple[Network, ...], Commas] = Field(
        (), description="networks (CIDR, commas) from which images may be fetched although not public"
    )
    image_url_http: bool = Field(False, description="also fetch images by http:// from public addresses")
    image_url_ports: Annotated[tuple[Port, ...], Commas] = Field(
        (), description="ports an image URL may name; empty: as for webhooks"
    )
    image_url_ca_file: str = Field(
        "", description="PEM of private authorities trusted for image URLs, beside the public ones"
    )
    image_url_proxy: SecretStr = Field(
        SecretStr(""),
        description="egress proxy for image URLs, as webhook_proxy is for webhooks",
    )
    image_url_timeout: float = Field(
        20, gt=0, description="an attempt waits this long for all its images by URL together, redirects included"
    )
    image_url_concurrency: int = Field(8, ge=1, description="images that one vision worker fetches by URL at once")

    @property
    def image_url_proxy_endpoint(self) -> ProxyEndpoint | None:
        """The egress proxy of image URLs, where there is one."""
        return _proxy_endpoint(self.image_url_proxy)

    @field_validator("image_url_ca_file")
    @classmethod
    def _usable_image_url_ca_file(cls, value: str) -> str:
        return _usable_ca_file(value)

    @field_validator("image_url_proxy")
    @classmethod
    def _readable_image_url_proxy(cls, value: SecretStr) -> SecretStr:
        return _readable_proxy(value)

    @field_validator("image_url_ports", mode="before")
    @classmethod
    def _split_image_url_ports(cls, value: object) -> object:
        return _split(value)

    @field_validator("image_url_allow", mode="before")
    @classmethod
    def _image_url_networks(cls, value: object) -> object:
        return _networks(value)


class BatchSettings(ProcessSettings):
    """Batches of files (`input_file_id`)."""

    max_batch_lines: int = Field(50_000, ge=1, le=1_000_000, description="lines of a batch's file")
    max_batch_bytes: int = Field(200 << 20, ge=1, description="bytes of a batch's file")
    max_batch_line_bytes: int = Field(16 << 20, ge=1, description="bytes of one line")
    max_batch_window: float = Field(86_400 * 7, gt=0, description="largest `completion_window`")
    batch_queued: int = Field(
        10_000,
        ge=1,
        description="batches queue lines while their tenant has fewer queued jobs than this, and than half of what "
        "limit_queued and max_queued allow; further lines wait in their file",
    )
    batch_slots: int = Field(2, ge=1, le=64, description="batches that one process works on at once")


class LimitSettings(ProcessSettings):
    """What one tenant may use; `tileq keys limits` sets other values for one of them."""

    limit_requests: int = Field(0, ge=0, description="requests of one tenant in a minute; 0: no limit")
    limit_queued: int = Field(0, ge=0, description="queued jobs of one tenant; 0: no limit")
    limit_bytes: int = Field(
        0, ge=0, description="bytes of images and files that one tenant stores in a day (UTC); 0: no limit"
    )
    limit_tokens: int = Field(0, ge=0, description="tokens generated for one tenant in a day (UTC); 0: no limit")
    max_priority: Priority = Field(
        "high",
        description="highest `priority` of a key that has none of its own; `normal`: no tenant goes before others",
    )

    @property
    def tenant_limits(self) -> TenantLimits:
        """The limits of a tenant that has none of its own."""
        return TenantLimits(self.limit_requests, self.limit_queued, self.limit_bytes, self.limit_tokens)


class JobSettings(ProcessSettings):
    """Leases, attempts and deadlines of jobs."""

    lease: float = Field(
        30, gt=0, description="a running job whose worker sends no heartbeat for this long is queued again"
    )
    max_attempts: int = Field(
        3, ge=1, description="attempts of one job that may be lost or fail with a transient error"
    )
    retry_backoff: float = Field(2, ge=0, description="before the second attempt; doubles, with jitter")
    redispatch: float = Field(
        10, gt=0, description="a hint is repeated after this while no worker claims the job, doubling to 60"
    )
    start_within: float = Field(3600, gt=0, description="default of a request's `start_within`")
    run_within: float = Field(600, gt=0, description="default of a request's `run_within`")
    max_start_within: float = Field(86_400 * 7, gt=0, description="largest `start_within` of a request")
    max_run_within: float = Field(3600, gt=0, description="largest `run_within` of a request")
    retain_for: float = Field(86_400 * 7, gt=0, description="an ended job and its objects live this long")
    reconcile_period: float = Field(1, gt=0, description="between two passes of the reconciler")


class WebhookSettings(ProcessSettings):
    """Delivery of webhooks."""

    webhook_secret: SecretStr = Field(SecretStr(""), description="`whsec_…` of the keyless tenant; made if empty")
    webhook_allow: Annotated[tuple[Network, ...], Commas] = Field(
        (), description="networks (CIDR, commas) allowed although not public; without keys, loopback is"
    )
    webhook_http: bool = Field(False, description="also deliver to http:// at public addresses")
    webhook_ports: Annotated[tuple[Port, ...], Commas] = Field(
        (), description="ports a webhook may name; empty: 80, 443 and 1024 and above, databases' and the like left out"
    )
    webhook_ca_file: str = Field(
        "", description="PEM of private authorities trusted for webhooks, beside the public ones"
    )
    webhook_proxy: SecretStr = Field(
        SecretStr(""),
        description="egress proxy `http://[user:password@]host:port`, asked with CONNECT once the address was judged; "
        "networks of webhook_allow are called directly",
    )
    webhook_proxy_by_name: bool = Field(
        False, description="CONNECT names the host, which the proxy resolves again, instead of the judged address"
    )
    webhook_timeout: float = Field(15, gt=0, description="one delivery attempt in all: resolve, connect, send, answer")
    webhook_schedule: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Commas] = Field(
        WEBHOOK_SCHEDULE, description="waits before the second and later attempts, with jitter"
    )
    webhook_full_bytes: int = Field(256 << 10, description="a full body above this becomes thin and says `truncated`")
    max_webhook_endpoints: int = Field(20, ge=1, description="webhook endpoints of one tenant")
    webhook_concurrency: int = Field(32, ge=1, description="deliveries at once of one webhook dispatcher")
    webhook_per_host: int = Field(8, ge=1, description="deliveries at once to one host, all dispatchers together")

    @field_validator("webhook_ca_file")
    @classmethod
    def _usable_webhook_ca_file(cls, value: str) -> str:
        return _usable_ca_file(value)

    @field_validator("webhook_proxy")
    @classmethod
    def _readable_webhook_proxy(cls, value: SecretStr) -> SecretStr:
        return _readable_proxy(value)

    @property
    def webhook_proxy_endpoint(self) -> ProxyEndpoint | None:
        """The egress proxy of webhooks, where there is one."""
        return _proxy_endpoint(self.webhook_proxy)

    @field_validator("webhook_schedule", "webhook_ports", mode="before")
    @classmethod
    def _split_numbers(cls, value: object) -> object:
        return _split(value)

    @field_validator("webhook_allow", mode="before")
    @classmethod
    def _webhook_networks(cls, value: object) -> object:
        return _networks(value)


class SecretsSettings(ProcessSettings):
    """The keys that encrypt stored secrets."""

    secrets_key: SecretStr = Field(
        SecretStr(""),
        description="encrypts stored webhook secrets and headers of receivers: 32 bytes in base64 (`tileq secrets "
        "new-key`); of several, commas between, the first encrypts and all decrypt; empty: they are stored in plain",
    )

    @field_validator("secrets_key")
    @classmethod
    def _usable_keys(cls, value: SecretStr) -> SecretStr:
        Keyring.of(value.get_secret_value())
        return value

    @property
    def keyring(self) -> Keyring:
        """The keys of `secrets_key`."""
        return Keyring.of(self.secrets_key.get_secret_value())


class ModelSettings(ProcessSettings):
    """Which checkpoint is served, and under which name."""

    model: str = Field("", description="checkpoint: a folder, a hub id (`org/name@revision`) or `s3://bucket/prefix`")
    model_id: str = Field("", description="name under which jobs request it; empty: derived from the checkpoint")
    system_message: str = Field(
        "", description="system message of every prompt; empty: the one that the checkpoint was trained with"
    )
    default_model: str = Field("", description="model of a job that names none; empty: model_id, else the demo model")


class VisionSettings(ProcessSettings):
    """The vision worker: engine, device, decoding processes."""

    model_sha256: str = Field("", description="the checkpoint's digest, or a manifest file; other files are refused")
    engine: Literal["resident", "transformers", "echo"] = Field(
        "resident",
        description="`resident` batches jobs; `transformers`: one at a time, stock code; `echo` answers at once",
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="`auto`: bfloat16 where the device computes it well, else float32, float16 to fit",
    )
    quantise: Literal["none", "int8", "int4"] = Field(
        "none", description="quantise the decoder; on a GPU with the extra `quant`"
    )
    slots: int = Field(0, ge=0, description="jobs that a vision worker runs at once; 0: the engine's own number")
    kv_cache_bytes: int = Field(
        0, ge=0, description="memory of the resident engine's keys and values; 0: what the device allows"
    )
    prefix_cache_sharing: Literal["tenant", "all"] = Field(
        "tenant",
        description="who shares what is computed of equal prompts and images; with `all` tenants can time each other",
    )
    affinity_window: int = Field(
        16,
        ge=1,
        le=100,
        description="waiting jobs of a tenant among which a claim prefers one whose conversation or image the worker "
        "has cached; 1: strictly by age",
    )
    decoders: int = Field(2, ge=1, description="processes that decode images")
    decode_timeout: float = Field(20, gt=0, description="processor seconds for one image; thrice that by the clock")
    decode_memory: int = Field(2 << 30, ge=1, description="memory of one decoding process, beyond that at its start")
    delta_interval: float = Field(0.05, gt=0, description="text after the first is collected this long and sent")
    cancel_interval: float = Field(0.5, gt=0, description="how often a worker checks its jobs for cancellation")
    stall: float = Field(
        120,
        gt=0,
        description="an engine step longer than this, and than the device needs, ends the process; leases do the rest",
    )
    shutdown_grace: float = Field(
        25, ge=0, description="after SIGTERM running jobs may finish for this long, then they are released"
    )
    echo_delay: float = Field(0, ge=0, description="seconds before each word of the `echo` engine, for tests")
    echo_tiles: bool = Field(True, description="off: `echo` decodes no image, to measure the queue alone")
    worker_name: str = Field("", description="name of this worker; empty: host and process id")


class RetentionSettings(JobSettings, WebhookSettings):
    """Jobs and webhooks together: a result outlives its last delivery attempt."""

    @model_validator(mode="after")
    def _outlive_webhooks(self) -> Self:
        # Retry-After may double a wait and jitter add a tenth; a result must outlive its last delivery attempt.
        window = 2.1 * sum(self.webhook_schedule)
        if self.retain_for <= window:
            raise ValueError(
                f"TILEQ_RETAIN_FOR={self.retain_for:.15g} is not longer than the webhook retry window of "
                f"{window:.15g} s; raise it or shorten TILEQ_WEBHOOK_SCHEDULE"
            )
        return self


class BrokerSettings(RedisSettings, JobSettings):
    """Celery: its Redis, and the longest job, which the visibility time-out must outlast."""


class IntakeSettings(
    StorageSettings,
    HttpSettings,
    RequestSettings,
    ImageUrlSettings,
    BatchSettings,
    LimitSettings,
    SecretsSettings,
    BrokerSettings,
    RetentionSettings,
    ModelSettings,
):
    """What `services.intake` reads."""


class WebhooksSettings(StorageSettings, KeySettings, SecretsSettings, BrokerSettings, RetentionSettings):
    """What `workers.webhooks` reads."""


class ReconcilerSettings(StorageSettings, BrokerSettings, RetentionSettings):
    """What `workers.reconciler` reads."""


class VisionWorkerSettings(
    StorageSettings, ImageSettings, ImageUrlSettings, BrokerSettings, ModelSettings, VisionSettings
):
    """What `workers.vision` reads."""


class Settings(IntakeSettings, WebhooksSettings, ReconcilerSettings, VisionWorkerSettings):  # type: ignore[misc]  # pydantic's mypy plugin and diamonds
    """All groups: what the command line, the documentation and tests read."""


#: The groups in the order of `docs/settings.md`, each with its heading.
GROUPS: tuple[tuple[str, tuple[type[ProcessSettings], ...]], ...] = (
    ("Where things are", (RedisSettings, StorageSettings)),
    ("HTTP", (HttpSettings,)),
    ("What a request may hold", (RequestSettings,)),
    ("Images by URL", (ImageUrlSettings,)),
    ("Batches of files", (BatchSettings,)),
    ("What one tenant may use", (LimitSettings,)),
    ("Jobs", (JobSettings,)),
    ("Webhooks", (WebhookSettings, SecretsSettings)),
    ("Vision worker", (ModelSettings, VisionSettings)),
    ("Every process", (ProcessSettings,)),
)


def variable_name(name: str) -> str:
    """Return the environment variable of the field `name`."""
    return f"{PREFIX}{name.upper()}"


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _networks(value: object) -> object:
    return tuple(ip_network(part) for part in _split(value)) if isinstance(value, str) else value


def _usable_ca_file(value: str) -> str:
    if value:
        check_ca_file(value)
    return value


def _readable_proxy(value: SecretStr) -> SecretStr:
    _proxy_endpoint(value)
    return value


def _proxy_endpoint(value: SecretStr) -> ProxyEndpoint | None:
    url = value.get_secret_value()
    return parse_proxy_url(url) if url else None
