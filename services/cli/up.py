"""`tileq up`: the whole service on this machine, until Ctrl-C."""

import signal
from typing import Annotated

import typer
from pydantic import ValidationError

from services.cli.failure import Failure, Usage, settings_problem
from services.cli.house import Data, folder_of
from services.cli.local.ports import free_ports, is_free
from services.cli.local.service import whole_service, write_environment
from services.cli.local.supervisor import Supervisor, SupervisorError
from services.cli.show import note
from shared.settings import read_settings


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
    try:
        settings = read_settings()
    except (ValidationError, OSError) as error:
        raise Usage(settings_problem(error)) from None
    folder = folder_of(data)
    host = host or settings.host
    port = settings.port if port is None else port
    if port and not is_free(port, host):
        raise Failure(f"port {port} is taken; give another with --port, or --port 0 for a free one")
    port = port or free_ports(1, host=host)[0]
    try:
        service = whole_service(folder, settings, host=host, port=port, vision=vision)
    except (ImportError, FileNotFoundError) as error:
        raise Failure(f"{error}; `tileq up` needs the extra `local`: pip install 'tileq[local]'") from None
    supervisor = Supervisor(folder, service.stages, note)

    def stop(*_: object) -> None:
        supervisor.stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    note(f"starting in {folder}, logs in {folder / 'logs'}")

    def ready() -> None:
        write_environment(folder, service.environment)
        print(f"tileq: ready {service.url}", flush=True)

    try:
        supervisor.run(ready)
    except SupervisorError as error:
        raise Failure(str(error)) from None
    note("stopped")
