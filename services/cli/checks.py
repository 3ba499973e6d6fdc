"""The checks of `tileq doctor`: every dependency of the service, and what to do where one fails."""

import importlib.metadata
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

import httpx
import redis
from packaging.requirements import Requirement

from services.cli.remedies import durability_remedy, redis_remedy, storage_remedy
from shared.broker import WEBHOOK_QUEUE, Hints, make_celery
from shared.connections.redis_client import connect
from shared.errors import TileqError
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings
from shared.store.client import Store
from shared.store.cluster import cluster_problem
from shared.store.durability import Durability, judge_durability, not_permitted
from shared.store.stats import StoreStats, get_stats

Level = Literal["ok", "warn", "fail"]

_MIN_REDIS_VERSION = (6, 2)
_MAX_CLOCK_OFFSET_S = 1.0  # webhook receivers allow 300, but timings would be off
_DISK_WARN_BYTES, _DISK_FAIL_BYTES = 5 << 30, 1 << 30
_BATCH_WAITS_S = 60  #: longer than a batch that is due waits while a process works on batches
_PROBE_KEY = ".doctor"
_PATH_FIXES = {
    "missing": "on a CPU: install a C compiler (gcc), on a GPU: Triton, and restart the worker",
    "failed": "answers are right without it; report the line, it names what the driver or compiler said",
    "wrong": "answers are right without it; report the line with the processor's or card's name",
}


@dataclass(frozen=True)
class Finding:
    """The result of one check. `fix` says what to do where it is not "ok"."""

    level: Level
    what: str
    seen: str
    fix: str = ""


def run_checks(settings: Settings, folder: Path, url: str) -> Iterator[Finding]:
    """Run every check; yield one finding for each thing checked."""
    yield from packages()
    yield from store(settings)
    yield from broker(settings)
    yield from storage(settings)
    yield from egress_proxy(settings)
    yield from service(url)
    yield from workers(settings)
    yield from disk(folder)
    yield from gpu()


def packages() -> Iterator[Finding]:
    """Check Python and the packages of each extra."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "python", version)
    try:
        requirements = [Requirement(line) for line in importlib.metadata.requires("tileq") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("fail", "packages", "tileq is not installed", "pip install '.[local]'")
        return
    for extra in ("", "intake", "vision", "local"):
        problems = [problem for line in requirements if _belongs(line, extra) and (problem := _missing(line))]
        name = f"packages for {extra}" if extra else "packages"
        if problems:
            fix = f"pip install 'tileq[{extra}]'" if extra else "pip install tileq"
            # A machine need not run every process.
            yield Finding("fail" if not extra else "warn", name, ", ".join(problems), fix)
        else:
            yield Finding("ok", name, "all installed")


def store(settings: Settings) -> Iterator[Finding]:
    """Check the Redis or Valkey that holds the job records."""
    where = settings.store_endpoint.address
    client = connect(settings.store_endpoint)
    try:
        with client:
            info, denied = _info(client)
            seconds, micros = client.time()
            skew = time.time() - seconds - micros / 1e6
            try:
                answer = client.config_get("append*") | client.config_get("maxmemory*")
                config = {str(name): str(value) for name, value in answer.items()}
            except redis.ResponseError:
                config = {}  # managed services refuse CONFIG
            client.set(f"{settings.redis_prefix}doctor", "1", px=1000)
    except redis.RedisError as error:
        yield Finding(
            "fail",
            "job store",
            f"{where}: {error}",
            redis_remedy(error, "TILEQ_REDIS_URL", tls=settings.store_endpoint.tls is not None),
        )
        return
    name = "Valkey" if info.get("valkey_version") else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version") or "of unknown version")
    new_enough = bool(denied) or tuple(int(part) for part in version.split(".")[:2]) >= _MIN_REDIS_VERSION
    fix = "" if new_enough else f"use Redis {'.'.join(map(str, _MIN_REDIS_VERSION))} or any Valkey"
    yield Finding("ok" if new_enough else "fail", "job store", f"{name} {version} at {where}, takes writes", fix)
    if problem := cluster_problem(info, settings.redis_prefix):
        yield Finding("fail", "cluster", problem.partition(": ")[0], problem.partition(": ")[2])
    yield _durable(denied or judge_durability(info, config), info, config)
    policy = config.get("maxmemory-policy") or str(info.get("maxmemory_policy", "unknown"))
    fix = "" if policy == "noeviction" else _eviction_remedy(config)
    yield Finding("ok" if policy == "noeviction" else "fail", "eviction", policy, fix)
    near = abs(skew) <= _MAX_CLOCK_OFFSET_S
    yield Finding("ok" if near else "warn", "clock", f"{skew:+.2f} s to the store's", "" if near else "run NTP on both")


def broker(settings: Settings) -> Iterator[Finding]:
    """Check the broker of Celery's messages."""
    where = settings.broker_endpoint.address
    try:
        waiting = Hints(make_celery(settings)).depth(WEBHOOK_QUEUE)
    except Exception as error:  # kombu's, redis' or the OS' error: any of them is the finding
        variable = "TILEQ_BROKER_URL" if settings.broker_url else "TILEQ_REDIS_URL"
        yield Finding(
            "fail",
            "Celery broker",
            f"{where}: {error}",
            redis_remedy(error.__cause__ or error, variable, tls=settings.broker_endpoint.tls is not None),
        )
        return
    yield Finding("ok", "Celery broker", f"{where}, {waiting} hints wait for the webhook dispatcher")


def storage(settings: Settings) -> Iterator[Finding]:
    """Check the S3 server: write, read and delete an object."""
    objects = S3Storage(settings)
    where = f"bucket {settings.s3_bucket} at {settings.s3_url}"
    began = time.monotonic()
    try:
        objects.check()
        objects.put(_PROBE_KEY, io.BytesIO(b"probe"), "text/plain", 5)
        same = objects.get(_PROBE_KEY) == b"probe"
        objects.delete(_PROBE_KEY)
    except TileqError as error:
        yield Finding("fail", "object storage", f"{where}: {error.detail}", storage_remedy(error.detail))
        return
    took = f"{where}, written, read and removed in {time.monotonic() - began:.2f} s"
    if same:
        yield Finding("ok", "object storage", took)
    else:
        yield Finding(
            "fail",
            "object storage",
            f"{where} returned other bytes than were written",
            "look for a proxy between tileq and the server that changes bodies",
        )


def egress_proxy(settings: Settings) -> Iterator[Finding]:
    """Check that the proxy of webhooks accepts connections, where there is one."""
    proxy = settings.webhook_proxy_endpoint
    if proxy is None:
        return
    where = f"{proxy.host}:{proxy.port}"
    try:
        socket.create_connection((proxy.host, proxy.port), timeout=5).close()
    except OSError as error:
        fix = "start it, or name the right host and port in TILEQ_WEBHOOK_PROXY"
        yield Finding("fail", "egress proxy", f"{where}: {error.strerror or error}", fix)
    else:
        yield Finding("ok", "egress proxy", f"{where} accepts connections")


def service(url: str) -> Iterator[Finding]:
    """Check that the API is ready."""
    try:
        answer = httpx.get(f"{url}/readyz", timeout=5)
        parts = answer.json().get("dependencies", {})
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError) as error:
        yield Finding(
            "warn", "service", f"{url}: {error or type(error).__name__}", "start it: tileq up, or set TILEQ_URL"
        )
        return
    down = [f"{name}: {part.get('reason')}" for name, part in parts.items() if not part.get("up")]
    if answer.status_code == 200:
        yield Finding("ok", "service", f"{url} is ready")
    else:
        fix = "do what its reasons say" if down else "read the log of intake"
        if answer.status_code == HTTPStatus.NOT_FOUND:
            fix = "name the address alone, without /v1 or another path of the API"
        yield Finding("fail", "service", f"{url} is not ready: {', '.join(down) or answer.status_code}", fix)


def workers(settings: Settings) -> Iterator[Finding]:
    """Check what the store tells of the processes that work: on batches of files, and by which paths on jobs."""
    try:
        with connect(settings.store_endpoint) as client:
            stats = Store(client, settings.redis_prefix).run(get_stats())
    except TileqError:
        return  # a finding of the job store's
    yield from batches(stats)
    yield from fast_paths(stats)


def batches(stats: StoreStats) -> Iterator[Finding]:
    """Check that a process works on batches of files, where there are any."""
    if not stats.batches:
        return
    level: Level = "ok" if stats.batches_age < _BATCH_WAITS_S else "fail"
    seen = f"{stats.batches} have not ended; the oldest that is due waits for {stats.batches_age:.0f} s"
    yield Finding(level, "batches of files", seen, "" if level == "ok" else "start python -m services.intake.batches")


def fast_paths(stats: StoreStats) -> Iterator[Finding]:
    """Tell by what each model's workers compute faster than plain torch, and what a worker had to leave out."""
    for name, model in stats.models.items():
        paths: dict[str, list[str]] = model.card.get("fast_paths", {}) if model.workers else {}
        if used := [path for path, (state, _) in paths.items() if state == "used"]:
            yield Finding("ok", f"fast paths of {name}", "; ".join(used))
        for path, (state, detail) in paths.items():
            if state == "slower":
                yield Finding("ok", f"{path} of {name}", f"plain torch is faster: {detail}")
            elif state != "used":
                yield Finding("warn", f"{path} of {name}", f"{state}: {detail}", _PATH_FIXES[state])


def disk(folder: Path) -> Iterator[Finding]:
    """Check the free space for data and for temporary files."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    for what, path in (("disk", there), ("temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free
        level: Level = "ok" if free > _DISK_WARN_BYTES else "warn" if free > _DISK_FAIL_BYTES else "fail"
        fix = "" if level == "ok" else "free some space; images and results are kept for TILEQ_RETAIN_FOR seconds"
        yield Finding(level, what, f"{free / 2**30:.1f} GiB free at {path}", fix)


def gpu() -> Iterator[Finding]:
    """Check the GPUs and the torch that the vision worker would use."""
    cards = _output(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    if not cards:
        yield Finding("ok", "GPU", "none found; the vision worker uses the CPU")
        return
    yield Finding("ok", "GPU", "; ".join(cards.splitlines()))
    # Only workers.vision may import torch, so another process does.
    code = "import torch; print(torch.__version__, torch.cuda.is_available())"
    printed = _output([sys.executable, "-P", "-c", code])
    if not printed.endswith("True"):
        seen = f"torch {printed.split()[0]} can't use it" if printed else "torch is not installed"
        yield Finding("warn", "torch on the GPU", seen, "install the CUDA build of torch that fits the driver")
    else:
        yield Finding("ok", "torch on the GPU", f"torch {printed.split()[0]}")


def _info(client: "redis.Redis") -> tuple[dict[str, Any], Durability | None]:
    """Return INFO, or nothing and what that means where the user may not run it."""
    try:
        return dict(client.info()), None
    except redis.exceptions.NoPermissionError as error:
        return {}, not_permitted("INFO", error)


def _durable(found: Durability, info: Mapping[str, Any], config: dict[str, str]) -> Finding:
    if found.mode == "always":
        return Finding("ok", "durability", "append-only file, appendfsync always")
    if found.mode == "waitaof":
        return Finding(
            "ok", "durability", f"append-only file, appendfsync {config.get('appendfsync', '?')} and WAITAOF"
        )
    return Finding("fail", "durability", found.problem, durability_remedy(info, config))


def _eviction_remedy(config: dict[str, str]) -> str:
    if not config:
        return "set maxmemory-policy to noeviction in the parameters of the service, or jobs may be evicted"
    return "CONFIG SET maxmemory-policy noeviction, and the same in its configuration file, or jobs may be evicted"


def _belongs(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return not extra
    if requirement.name == "tileq":
        return False  # an extra made of extras, which are checked themselves
    return requirement.marker.evaluate({"extra": extra}) and (
        not extra or not requirement.marker.evaluate({"extra": ""})
    )


def _missing(requirement: Requirement) -> str:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
