"""`tileq up`: the whole service on this machine, until Ctrl-C."""

import signal
from pathlib import Path

from services.cli.environment import settings, write_environment
from services.cli.errors import CommandError
from services.cli.local.ports import bind_problem, free_ports
from services.cli.local.restarts import SupervisorError
from services.cli.local.service import whole_service
from services.cli.local.supervisor import Supervisor
from services.cli.output import note
from shared.environment import unknown_variables


def run(folder: Path, host: str | None, port: int | None, vision: int) -> None:
    """Run the service in `folder` until SIGTERM, SIGINT or SIGHUP; print its URL once it is ready."""
    found = settings()
    host = host or found.host
    port = found.port if port is None else port
    if problem := bind_problem(port, host):
        raise CommandError(f"{problem}; choose another with --port, or --port 0 for a free one")
    port = port or free_ports(1, host=host)[0]
    try:
        service = whole_service(folder, found, host=host, port=port, vision=vision)
    except (ImportError, FileNotFoundError) as error:
        raise CommandError(f"{error}; `tileq up` needs the extra `local`: pip install 'tileq[local]'") from None
    except OSError as error:
        raise CommandError(f"can't keep data in {folder}: {error}; choose another folder with --data") from None
    for name, similar in unknown_variables().items():
        note(f"{name} is ignored: there is no such setting" + (f"; is {similar} meant?" if similar else ""))
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
    except (SupervisorError, OSError) as error:
        raise CommandError(str(error)) from None
    note("stopped")
