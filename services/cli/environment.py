"""Settings of this process, and the way to a service of `tileq up` on this machine."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.errors import CommandError, UsageError

if TYPE_CHECKING:  # pydantic takes a fifth of a second, and `tileq ask` needs none of it
    from shared.settings.roles import Settings


def settings() -> "Settings":
    """Return the settings of the environment; `UsageError` names the variables that are wrong, never their values."""
    from shared.environment import read_settings  # noqa: PLC0415
    from shared.settings.base import SettingsError  # noqa: PLC0415

    try:
        return read_settings()
    except SettingsError as error:
        raise UsageError(str(error)) from None


def data_folder(data: Path | None) -> Path:
    """Return the folder that `--data` names, or the default one."""
    default = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "tileq"
    return (data or default).expanduser().absolute()


def use_local_service(data: Path | None) -> Path | None:
    """Make this process use the service of `tileq up` in `data`, or in the default folder; return the folder.

    Returns None and changes nothing where no service runs there, or where TILEQ_REDIS_URL is set and `data` is not.
    Raises `CommandError` where `data` is given and no service runs in it.
    """
    if data is None and ("TILEQ_REDIS_URL" in os.environ or "TILEQ_REDIS_URL_FILE" in os.environ):
        return None
    folder = data_folder(data)
    found = read_environment(folder)
    if data is not None and not found:
        raise CommandError(f"no `tileq up` runs in {folder}")
    for name in (*found, *address_variables()) if found else ():
        os.environ.pop(name, None)
        os.environ.pop(f"{name}_FILE", None)
    os.environ.update(found)
    return folder if found else None


def address_variables() -> list[str]:
    """Return the variables of addresses, credentials and certificates, which belong to one service and to no other."""
    from shared.settings.base import ProcessSettings  # noqa: PLC0415
    from shared.settings.redis import RedisSettings  # noqa: PLC0415
    from shared.settings.storage import StorageSettings  # noqa: PLC0415

    fields = {*RedisSettings.model_fields, *StorageSettings.model_fields, "host", "port"}
    fields -= {*ProcessSettings.model_fields, "redis_prefix", "require_aof", "redis_timeout", "s3_timeout"}
    return [f"TILEQ_{name.upper()}" for name in sorted(fields)]


def write_environment(folder: Path, environment: Mapping[str, str]) -> None:
    """Write the settings of a running service for `tileq keys` and `tileq doctor`, readable by this user alone."""
    path = _environment_file(folder)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in environment.items())


def read_environment(folder: Path) -> dict[str, str]:
    """Return what `write_environment` wrote, or nothing where no service runs in `folder`."""
    with suppress(OSError):
        return dict(line.split("=", 1) for line in _environment_file(folder).read_text().splitlines())
    return {}


def _environment_file(folder: Path) -> Path:
    return folder / "run" / "environment"
