"""The whole service on this machine: Valkey and SeaweedFS first, then our own processes.

FOLDER/valkey, FOLDER/objects     the data; everything else can be lost
FOLDER/webhook-secret             `whsec_…` of the keyless tenant, made once
FOLDER/secrets-key                encrypts stored secrets, made once
"""

import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from services.cli.environment import address_variables
from services.cli.local.ports import free_ports
from services.cli.local.process import Program
from services.cli.local.seaweed import seaweed
from services.cli.local.supervisor import Stages
from services.cli.local.valkey import valkey
from shared.encryption import new_key
from shared.settings.roles import Settings
from shared.webhooks.signing import new_secret

_SECRET = "TILEQ_WEBHOOK_SECRET"  # noqa: S105  # the variable's name
_SECRETS_KEY = "TILEQ_SECRETS_KEY"


@dataclass(frozen=True)
class WholeService:
    """The programs of a service, its URL, and the settings they share."""

    url: str
    stages: Stages
    environment: Mapping[str, str]  #: of all its processes, beside the user's own


def whole_service(
    folder: Path,
    settings: Settings,
    *,
    host: str,
    port: int,
    vision: int,
    more: Mapping[str, str] | None = None,
    load: float = 0,
    without: Collection[str] = (),
) -> WholeService:
    """Lay out the service with its data in `folder` and `vision` workers; `more` goes over every other setting.

    It is up once jobs are taken in; with `load`, only once the workers have loaded their model, within so many seconds.
    Processes named in `without` are left out.

    Nothing is started. Raises `ImportError` or `FileNotFoundError` where the extra `local` is not installed.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (redis_port,) = free_ports(1)
    weed, s3 = seaweed(folder / "objects")
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104  # nosec B104 - compared
    environment = {
        "TILEQ_REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "TILEQ_BROKER_URL": "",
        "TILEQ_EVENTS_URL": "",
        "TILEQ_S3_URL": s3.url,
        "TILEQ_S3_ACCESS_KEY": s3.access_key,
        "TILEQ_S3_SECRET_KEY": s3.secret_key,
        "TILEQ_S3_BUCKET": s3.bucket,
        "TILEQ_HOST": host,
        "TILEQ_PORT": str(port),
        **_kept_in_file(_SECRET, folder / "webhook-secret", new_secret),
        **_kept_in_file(_SECRETS_KEY, folder / "secrets-key", new_key),
        **(more or {}),
    }

    def worker(name: str) -> Program:
        patient = process(name, "workers.vision", environment, folder)
        return replace(patient, awaited=load > 0, start_within=load, stop_within=settings.shutdown_grace + 5)

    processes = [
        process("intake", "services.intake", environment, folder, probe_url=f"{url}/readyz"),
        process("batches", "services.intake.batches", environment, folder),
        process("reconciler", "workers.reconciler", environment, folder),
        process("webhooks", "workers.webhooks", environment, folder),
        *(worker("vision" if n == 1 else f"vision-{n}") for n in range(1, vision + 1)),
    ]
    kept = [program for program in processes if program.name not in without]
    return WholeService(url, [[valkey(folder / "valkey", redis_port), weed], kept], environment)


def process(name: str, module: str, environment: Mapping[str, str], folder: Path, *, probe_url: str = "") -> Program:
    """Return one of our processes for the service in `folder`, ready once `probe_url`, or else its /readyz, answers.

    `environment` is the service's (`WholeService.environment`), with or without changes for this process.
    """
    (port,) = free_ports(1)
    variables = {
        # Set by this module, whatever the user's shell has for other services.
        **{variable: None for name in address_variables() for variable in (name, f"{name}_FILE")},
        # torch makes a folder for compiled code as it is imported, by default in the system's temporary folder.
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "compiled"),
        **environment,
    }
    # -P: a folder called `services` where the command is given must not stand in for ours.
    argv = [sys.executable, "-P", "-m", module]
    probe = answers(probe_url or f"http://127.0.0.1:{port}/readyz")
    return Program(name, argv, variables, probe, module=module, metrics_port=port)


def answers(url: str) -> Callable[[], str]:
    """Return a probe that succeeds when `url` answers 200."""

    def probe() -> str:
        try:
            answer = httpx.get(url, timeout=2, trust_env=False)
        except httpx.HTTPError as error:
            return str(error) or type(error).__name__
        return "" if answer.status_code == 200 else answer.text[:500]

    return probe


def _kept_in_file(variable: str, path: Path, make: Callable[[], str]) -> dict[str, str]:
    """Return the variable naming the secret's file, which is made if absent; nothing where the user sets a value."""
    if variable in os.environ or f"{variable}_FILE" in os.environ:
        return {}
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(make() + "\n")
    return {f"{variable}_FILE": str(path)}
