"""`tileq up`, `demo` and `doctor`: what they take. What they do is loaded when they are called.

They bring the servers, Celery and the job store along, half a second that `tileq ask` does not wait for.
"""

from typing import Annotated

import typer

from services.cli.environment import folder_of
from services.cli.options import AsJson, Data


def up(
    data: Data = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API; 0: a free one. Default TILEQ_PORT or 8000.")
    ] = None,
    vision: Annotated[int, typer.Option(min=0, max=64, metavar="N", help="Vision workers.")] = 1,
    host: Annotated[str | None, typer.Option(help="Address of the API; anything but loopback needs keys.")] = None,
) -> None:
    """Start everything on this machine, with its data in one folder. Ctrl-C stops it; starting again goes on.

    TILEQ_MODEL, TILEQ_ENGINE and every other setting pass through to the processes.
    """
    from services.cli.up import run  # noqa: PLC0415

    run(folder_of(data), host, port, vision)


def demo() -> None:
    """Start the whole service, ask about a bundled photograph, show everything that happens, and stop it again.

    TILEQ_MODEL, TILEQ_DEVICE and other settings of the vision worker pass through.
    """
    from services.cli.demo import run  # noqa: PLC0415

    run()


def doctor(
    data: Data = None,
    url: Annotated[str | None, typer.Option("--url", envvar="TILEQ_URL", help="Also ask this service.")] = None,
    json: AsJson = False,
) -> None:
    """Check every dependency, and say what to fix."""
    from services.cli.doctor import run  # noqa: PLC0415

    run(data, url, json)
