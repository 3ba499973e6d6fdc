"""The whole service for acceptance tests and benchmarks: what `tileq up` starts, with any settings.

with service(engine="echo", vision=1) as here:
    httpx.post(f"{here.url}/v1/jobs", …)
"""

import os
import signal
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import redis

from services.cli.local.ports import free_ports
from services.cli.local.process import Program
from services.cli.local.service import process, whole_service
from services.cli.local.supervisor import supervised
from shared.environment import read_settings
from shared.settings.roles import Settings
from tests.servers import needed

#: Short waits, so that a test sees in seconds what production sees in minutes.
QUICK = {
    "TILEQ_LEASE": "3",
    "TILEQ_RETRY_BACKOFF": "0.1",
    "TILEQ_REDISPATCH": "1",
    "TILEQ_RECONCILE_PERIOD": "0.2",
    "TILEQ_CANCEL_INTERVAL": "0.2",
    "TILEQ_WEBHOOK_SCHEDULE": "0.5,1,1,2,2,5,5",
    "TILEQ_SHUTDOWN_GRACE": "2",
    "TILEQ_LOG_FORMAT": "console",
}
LOAD_WITHIN_S = 60.0  #: seconds in which a vision worker must have loaded its model


@dataclass(frozen=True)
class Service:
    """A running service: where it is, its settings, and the environment that another process of it needs."""

    url: str
    folder: Path
    settings: Settings
    env: Mapping[str, str]

    def pid(self, name: str) -> int:
        """Process id of `name` (`intake`, `vision`, `vision-2`, …)."""
        return int((self.folder / "run" / f"{name}.pid").read_text())

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to `name`; one that dies is started again by the supervisor."""
        os.kill(self.pid(name), number)

    def record(self, id: str) -> dict[str, str]:
        """The record of job `id` as it is stored; it tells what the API does not, such as the `owner`."""
        with redis.Redis.from_url(self.settings.redis_url, decode_responses=True) as client:
            stored: dict[str, str] = client.hgetall(f"{self.settings.redis_prefix}job:{id}")
        return stored

    def log(self, name: str) -> str:
        """What `name` has logged."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")


@contextmanager
def service(
    *, engine: str = "echo", vision: int = 1, without: Collection[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Run the service of `tileq up` with `vision` workers while the block runs; `without` names processes left out.

    Where the servers are not installed, the test is skipped, and in CI fails.
    """
    with tempfile.TemporaryDirectory(prefix="tileq-test-") as name:
        folder = Path(name)
        (port,) = free_ports(1)
        changes = {**QUICK, "TILEQ_ENGINE": engine, **(env or {})}
        layout = partial(whole_service, folder, _settings(changes), host="127.0.0.1", port=port, load=LOAD_WITHIN_S)
        whole = needed(lambda: layout(vision=vision, more=changes, without=without))
        with supervised(folder, [[ended_soon(program) for program in stage] for stage in whole.stages], _say):
            yield Service(whole.url, folder, _settings(whole.environment), whole.environment)


@contextmanager
def started(module: str, here: Service, name: str = "", env: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Run one more process of `here` while the block runs, with `env` over the service's own environment.

    A module without a health port (not of `workers`) counts as ready at once.
    """
    name = name or module.rpartition(".")[2]
    folder = here.folder / f"beside-{name}"
    environment = {**here.env, **(env or {})}
    program = process(name, module, environment, folder)
    if not module.startswith("workers."):
        program = replace(program, probe=lambda: "")
    with supervised(folder, [[ended_soon(program)]], _say):
        yield Service(here.url, folder, here.settings, environment)


def ended_soon(program: Program) -> Program:
    """Return `program` as one whose data nobody needs any more: it has a second to stop, and is probed no more."""
    return replace(program, stop_within=1, stuck=lambda: "")


def _settings(env: Mapping[str, str]) -> Settings:
    """Read the settings as a process with `env` would."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        return read_settings()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
