"""The whole service for acceptance tests and benchmarks: real servers, real processes, any settings.

with service(engine="echo", vision=1) as here:
    httpx.post(f"{here.url}/v1/jobs", …)
"""

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from services.cli.local.ports import free_ports
from services.cli.local.process import Program
from services.cli.local.seaweed import seaweed
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from shared.settings import Settings

#: Short waits, so that a test sees in seconds what production sees in minutes.
QUICK = {
    "TILEQ_LEASE": "3",
    "TILEQ_RETRY_BACKOFF": "0.1",
    "TILEQ_REDISPATCH": "1",
    "TILEQ_RECONCILE_PERIOD": "0.2",
    "TILEQ_CANCEL_INTERVAL": "0.2",
    "TILEQ_WEBHOOK_SCHEDULE": "0.5,1,1,2,2,5,5",
    "TILEQ_LOG_FORMAT": "console",
}


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

    def log(self, name: str) -> str:
        """What `name` has logged."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")


@contextmanager
def service(
    *, engine: str = "echo", vision: int = 1, dispatcher: bool = True, env: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """Run Valkey, SeaweedFS, intake, reconciler, dispatcher and `vision` workers while the block runs."""
    with tempfile.TemporaryDirectory(prefix="tileq-test-") as name:
        folder = Path(name)
        redis_port, port = free_ports(2)
        weed, s3 = seaweed(folder / "seaweedfs")
        environment = QUICK | {
            "TILEQ_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
            "TILEQ_S3_URL": s3.url,
            "TILEQ_S3_ACCESS_KEY": s3.access_key,
            "TILEQ_S3_SECRET_KEY": s3.secret_key,
            "TILEQ_S3_BUCKET": s3.bucket,
            "TILEQ_PORT": str(port),
            "TILEQ_ENGINE": engine,
        }
        environment |= env or {}
        here = Service(f"http://127.0.0.1:{port}", folder, _settings(environment), environment)
        ours = [
            Program("intake", [sys.executable, "-m", "services.intake"], environment, _answers(f"{here.url}/readyz")),
            _program("reconciler", "workers.reconciler", environment),
        ]
        if dispatcher:
            ours.append(_program("webhooks", "workers.webhooks", environment))
        workers = ["vision", *(f"vision-{n}" for n in range(2, vision + 1))][:vision]
        ours += [_program(worker, "workers.vision", environment) for worker in workers]
        with supervised(folder, [[valkey(folder / "valkey", redis_port), weed], ours], _say):
            yield here


@contextmanager
def started(module: str, here: Service, name: str = "", env: Mapping[str, str] | None = None) -> Iterator[Service]:
    """Run one more process of `here` while the block runs; it is killed at the end, not asked."""
    name = name or module.rpartition(".")[2]
    folder = here.folder / f"beside-{name}"
    environment = {**here.env, **(env or {})}
    with supervised(folder, [[_program(name, module, environment)]], _say):
        yield Service(here.url, folder, here.settings, environment)


def _program(name: str, module: str, env: Mapping[str, str]) -> Program:
    """Return one of our processes: ready once its /metrics answers, which is when it works."""
    (port,) = free_ports(1)
    argv = [sys.executable, "-m", module]
    if not module.startswith("workers."):
        return Program(name, argv, env)
    return Program(name, argv, env, _answers(f"http://127.0.0.1:{port}/metrics"), metrics_port=port)


def _answers(url: str) -> Callable[[], str]:
    def probe() -> str:
        try:
            answer = httpx.get(url, timeout=2)
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return "" if answer.status_code == 200 else answer.text

    return probe


def _settings(env: Mapping[str, str]) -> Settings:
    """Read the settings as a process with `env` would."""
    before = dict(os.environ)
    os.environ.update(env)
    try:
        return Settings()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
