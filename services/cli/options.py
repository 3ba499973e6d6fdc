"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from services.cli.client import ApiClient
from shared.ids import is_id

URL = "http://127.0.0.1:8000"


def _job_id(text: str) -> str:
    if not is_id("job", text):
        raise typer.BadParameter(f"{text!r} is not a job id; `tileq jobs` lists them")
    return text


Url = Annotated[str, typer.Option("--url", envvar="TILEQ_URL", metavar="URL", help="URL of the service.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        envvar="TILEQ_DATA",
        metavar="DIR",
        help="Folder of the service's data, by default ~/.local/share/tileq.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, job_…", callback=_job_id)]


def api(url: str) -> ApiClient:
    """Return a client; the key comes from the environment only, since a command line is public on its machine."""
    return ApiClient(url, os.environ.get("TILEQ_API_KEY", ""))
