"""The settings of this process, and where those of a service on this machine are found."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from services.cli.failure import Failure, Usage

if TYPE_CHECKING:  # pydantic takes a fifth of a second, and `tileq ask` needs none of it
    from shared.settings import Settings


def settings() -> "Settings":
    """Return the settings of the environment; `Usage` names the variables that are wrong, never their values."""
    from shared.settings import SettingsError, read_settings  # noqa: PLC0415

    try:
        return read_settings()
    except SettingsError as error:
        raise Usage(str(error)) from None


def folder_of(data: Path | None) -> Path:
    """Return the folder that `--data` names, or where the service keeps its data unless told otherwise."""
    usual = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "tileq"
    return (data or usual).expanduser().absolute()


def joined(data: Path | None) -> Path | None:
    """Point this process at the service of `tileq up` in `data`, or in the usual folder; None where there is none.

    Where TILEQ_REDIS_URL names a service and `--data` is not given, nothing is changed.
    """
    if data is None and ("TILEQ_REDIS_URL" in os.environ or "TILEQ_REDIS_URL_FILE" in os.environ):
        return None
    folder = folder_of(data)
    found = read_environment(folder)
    if data is not None and not found:
        raise Failure(f"no `tileq up` runs in {folder}")
    for name in found:
        os.environ.pop(f"{name}_FILE", None)
    os.environ.update(found)
    return folder if found else None


def write_environment(folder: Path, environment: Mapping[str, str]) -> None:
    """Leave the way in for `tileq keys` and `tileq doctor`, readable by this user alone."""
    path = _note(folder)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{name}={value}\n" for name, value in environment.items())


def read_environment(folder: Path) -> dict[str, str]:
    """Return what `write_environment` left, or nothing where no service runs in `folder`."""
    with suppress(OSError):
        return dict(line.split("=", 1) for line in _note(folder).read_text().splitlines())
    return {}


def _note(folder: Path) -> Path:
    return folder / "run" / "environment"
