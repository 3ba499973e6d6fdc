"""Settings of the HTTP API and its keys."""

import re

from pydantic import Field, field_validator

from shared.settings.base import ProcessSettings
from shared.settings.values import Words


class KeySettings(ProcessSettings):
    """API keys that the deployment fixes."""

    api_keys: Words = Field(
        (), description="keys fixed by the deployment, `tenant=tq_…` separated by commas, beside those of `tileq keys`"
    )


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
