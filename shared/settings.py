"""Every knob of every process: one typed class, read once in `main()` from `TILEQ_*` and handed inward.

Times are seconds, sizes bytes, unless the name says otherwise. The table in the README is made from this class.
"""

import os
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

#: Seconds after the first attempt's failure at which the next ones follow (Svix's schedule, Standard Webhooks 1.0).
WEBHOOK_SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0)

#: Variables of former releases that are still read, each with the one that took its place.
FORMER_NAMES = {"TILEQ_KEEPER_PERIOD": "TILEQ_RECONCILE_PERIOD"}

Network = IPv4Network | IPv6Network
Commas = NoDecode  # lists come as "a,b", not as JSON


class Settings(BaseSettings):
    """What `TILEQ_NAME` sets is the field `name` below; `TILEQ_NAME_FILE` reads it from a file (mounted secrets)."""

    model_config = SettingsConfigDict(env_prefix="TILEQ_", extra="ignore", frozen=True)

    # Where things are
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="job records and outbox; AOF on, noeviction")
    broker_url: str = Field("", description="Celery's Redis; empty: redis_url")
    events_url: str = Field("", description="Redis for text deltas, may live without AOF; empty: redis_url")
    redis_prefix: str = Field("tileq:", description="in front of every Redis key and queue")
    require_aof: bool = Field(True, description="take no job while the job store keeps no append-only file")
    redis_timeout: float = Field(5, gt=0, description="for one Redis round trip, connecting included")
    s3_url: str = Field("http://127.0.0.1:9000", description="S3 server, scheme and port included")
    s3_access_key: str = Field("", description="S3 access key")
    s3_secret_key: SecretStr = Field(SecretStr(""), description="S3 secret key")
    s3_region: str = Field("us-east-1", description="S3 region; given, so that no look-up is needed")
    s3_bucket: str = Field("tileq", description="bucket for images, manifests and results; made if absent")
    s3_timeout: float = Field(20, gt=0, description="for one S3 request")

    # HTTP
    host: str = Field("127.0.0.1", description="address the API binds; anything but loopback needs keys")
    port: int = Field(8000, ge=0, le=65535, description="port of the API")
    metrics_host: str = Field("127.0.0.1", description="address of /metrics of every process")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of /metrics of this process; 0: none")
    api_keys: Annotated[tuple[str, ...], Commas] = Field(
        (), description="keys fixed by the deployment, `tenant=tq_…` separated by commas, beside those of `tileq keys`"
    )
    key_cache: float = Field(5, ge=0, description="how long a looked-up key is believed; a revoked one dies by then")
    body_timeout: float = Field(30, gt=0, description="longest silence while a request body is read")

    # What a request may hold
    max_body_bytes: int = Field(64 << 20, description="one request, all images and fields")
    max_image_bytes: int = Field(20 << 20, description="one image as sent")
    max_image_pixels: int = Field(50_000_000, description="width x height of one image, from its header")
    max_image_side: int = Field(32_768, description="longest side of one image, pixels")
    max_image_frames: int = Field(1_000, description="frames of an animated image (the first one is used)")
    max_images: int = Field(32, description="images of one job, those of its parents included")
    max_tiles: int = Field(200, description="tiles of one job, all images and thumbnails together")
    max_new_tokens: int = Field(4_096, description="largest `max_new_tokens` a request may ask for")
    max_batch_jobs: int = Field(1_000, description="jobs of one batch")
    max_queued: int = Field(100_000, description="queued jobs of the service; above it, 503 overloaded")
    max_streams: int = Field(256, ge=1, description="event streams that one intake holds open at once")
    image_mode: Literal["natural", "original"] = Field(
        "natural", description="`natural`: EXIF turned, white under transparency, 16 bit scaled; `original`: the card's"
    )

    # Jobs
    lease: float = Field(30, gt=0, description="a running job silent for this long is given to another worker")
    max_attempts: int = Field(3, ge=1, description="claims of one job that may be lost or fail for a passing reason")
    retry_backoff: float = Field(2, ge=0, description="before the second attempt; doubles, with jitter")
    redispatch: float = Field(10, gt=0, description="a hint nobody followed is repeated after this, doubling to 60")
    start_within: float = Field(3600, gt=0, description="default of a request's `start_within`")
    run_within: float = Field(600, gt=0, description="default of a request's `run_within`")
    max_start_within: float = Field(86_400 * 7, gt=0, description="largest `start_within` a request may ask for")
    max_run_within: float = Field(3600, gt=0, description="largest `run_within` a request may ask for")
    retain_for: float = Field(86_400 * 7, gt=0, description="an ended job and its objects live this long")
    reconcile_period: float = Field(1, gt=0, description="between two rounds of the reconciler")

    # Webhooks
    webhook_secret: SecretStr = Field(SecretStr(""), description="`whsec_…` of the keyless tenant; made if empty")
    webhook_allow: Annotated[tuple[Network, ...], Commas] = Field(
        (), description="networks (CIDR, commas) allowed although not public; without keys, loopback is"
    )
    webhook_http: bool = Field(False, description="also deliver to http:// at public addresses")
    webhook_ports: Annotated[tuple[int, ...], Commas] = Field(
        (), description="ports a webhook may name; empty: 80, 443 and 1024 and above, databases' and the like left out"
    )
    webhook_timeout: float = Field(15, gt=0, description="one delivery attempt in all: resolve, connect, send, answer")
    webhook_schedule: Annotated[tuple[float, ...], Commas] = Field(
        WEBHOOK_SCHEDULE, description="waits before the second and later attempts, with jitter"
    )
    webhook_full_bytes: int = Field(256 << 10, description="a full body above this becomes thin and says `truncated`")
    webhook_concurrency: int = Field(32, ge=1, description="deliveries at once of one webhook dispatcher")
    webhook_per_host: int = Field(8, ge=1, description="deliveries at once to one host, all dispatchers together")

    # Vision worker
    model: str = Field("", description="checkpoint: a folder, a hub id (`org/name@revision`) or `s3://bucket/prefix`")
    model_sha256: str = Field("", description="the checkpoint's digest, or a manifest file; other files are refused")
    model_id: str = Field("", description="name under which jobs ask for it; empty: what the checkpoint says it is")
    default_model: str = Field("", description="model of a job that names none; empty: model_id, else the demo model")
    engine: Literal["transformers", "echo"] = Field("transformers", description="`echo` answers at once, for tests")
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:N`")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="`auto`: bfloat16 where the device computes it well, else float32"
    )
    quantise: Literal["none", "int8", "int4"] = Field("none", description="pack the decoder, with the extra `quant`")
    slots: int = Field(0, ge=0, description="jobs a vision worker holds at once; 0: what the engine takes")
    decoders: int = Field(2, ge=1, description="sandbox processes that decode images")
    decode_timeout: float = Field(20, gt=0, description="wall seconds for decoding and tiling one image")
    decode_memory: int = Field(2 << 30, description="address space of one decoding process")
    delta_interval: float = Field(0.05, gt=0, description="text is gathered this long before it is written out")
    cancel_interval: float = Field(0.5, gt=0, description="how often a worker asks whether its jobs are still wanted")
    stall: float = Field(120, gt=0, description="an engine step longer than this ends the process; leases do the rest")
    shutdown_grace: float = Field(25, ge=0, description="after SIGTERM running jobs may end, then they are given back")
    echo_delay: float = Field(0, ge=0, description="seconds before each word of the `echo` engine, for tests")
    echo_tiles: bool = Field(True, description="off: `echo` looks at no picture, to measure the queue alone")
    worker_name: str = Field("", description="name of this worker; empty: host and process id")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level written")
    log_format: Literal["json", "console"] = Field("json", description="one JSON object a line, or for people")

    @field_validator("api_keys", "webhook_schedule", "webhook_ports", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("webhook_allow", mode="before")
    @classmethod
    def _networks(cls, value: object) -> object:
        return tuple(ip_network(part.strip()) for part in value.split(",") if part) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _outlive_webhooks(self) -> Self:
        # Retry-After may double a wait and jitter add a tenth; a result must outlive its last delivery attempt.
        window = 2.1 * sum(self.webhook_schedule)
        if self.retain_for <= window:
            raise ValueError(
                f"TILEQ_RETAIN_FOR={self.retain_for:g} is not longer than the webhook retry window of {window:g} s; "
                "raise it or shorten TILEQ_WEBHOOK_SCHEDULE"
            )
        return self

    @property
    def broker(self) -> str:
        """URL of Celery's Redis."""
        return self.broker_url or self.redis_url

    @property
    def events(self) -> str:
        """URL of the Redis that holds text deltas."""
        return self.events_url or self.redis_url


def read_settings() -> Settings:
    """Read the environment once; `TILEQ_X_FILE` names a file holding `TILEQ_X`. Raises `ValueError` with the field."""
    from_files = {
        name: Path(os.environ[variable]).read_text().strip()
        for name in Settings.model_fields
        if (variable := f"TILEQ_{name.upper()}_FILE") in os.environ
    }
    return Settings(**{**_under_former_names(), **from_files})  # type: ignore[arg-type]


def former_names_in_use() -> dict[str, str]:
    """Return the variables of former releases that the environment sets, each with its present name."""
    return {former: name for former, name in FORMER_NAMES.items() if former in os.environ}


def _under_former_names() -> dict[str, str]:
    """Return what only a former name sets; the present name wins where both are set."""
    return {
        name.removeprefix("TILEQ_").lower(): os.environ[former]
        for former, name in former_names_in_use().items()
        if name not in os.environ
    }
