"""What every group of settings stands on, and the settings of every process."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "TILEQ_"


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


def variable_name(name: str) -> str:
    """Return the environment variable of the field `name`."""
    return f"{PREFIX}{name.upper()}"
