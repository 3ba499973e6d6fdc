"""Where the data of a service on this machine lies, and joining the one that runs there."""

import os
from pathlib import Path
from typing import Annotated

import typer

from services.cli.failure import Failure
from services.cli.local.service import read_environment

Data = Annotated[
    Path | None,
    typer.Option(
        "--data", envvar="TILEQ_DATA", metavar="DIR", help="Folder of all state; default ~/.local/share/tileq."
    ),
]


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
