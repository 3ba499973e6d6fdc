"""Options of `tileq up`, `demo` and `doctor`. Their modules are imported when they are called.

Those import Celery and the clients of the stores, half a second that `tileq ask` does not wait for.
"""

from typing import Annotated

import typer

from services.cli.environment import data_folder
from services.cli.options import AsJson, Data


def up(
    data: Data = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the API; 0: a free one. Default TILEQ_PORT or 8000.")
    ] = None,
    vision: Annotated[int, typer.Option(min=0, max=64, metavar="N", help="Vision workers.")] = 1,
    host: Annotated[str | None, typer.Option(help="Address of the API; anything but loopback needs keys.")] = None,
) -> None:
    """Run the whole service on this machine, with its data in one folder, until Ctrl-C. The next start finds every job.

    TILEQ_MODEL, TILEQ_ENGINE and every other setting are passed to the processes.
    """
    from services.cli.up import run  # noqa: PLC0415

    run(data_folder(data), host, port, vision)


def demo() -> None:
    """Run the whole service for a minute: ask about bundled images, show tiles, answers and webhooks, and stop it.

    TILEQ_MODEL, TILEQ_DEVICE and other settings of the vision worker are passed to it.
    """
    from services.cli.demo import run  # noqa: PLC0415

    run()


def doctor(
    data: Data = None,
    url: Annotated[str | None, typer.Option("--url", envvar="TILEQ_URL", help="Check this service too.")] = None,
    json: AsJson = False,
) -> None:
    """Check every dependency and print what to fix."""
    from services.cli.doctor import run  # noqa: PLC0415

    run(data, url, json)
