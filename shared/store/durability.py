"""How a Redis-compatible server keeps writes, and whether an accepted job would survive its restart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

WAITAOF_VERSION = (7, 2)  #: of Redis and Valkey, from which a client can wait for the disk
_OR_LIVE_WITH_IT = "or set TILEQ_REQUIRE_AOF=false and accept that loss"


@dataclass(frozen=True)
class Durability:
    """How writes are kept: each one synced (`always`), synced on demand (`waitaof`), or not durable (`none`)."""

    mode: Literal["always", "waitaof", "none"]
    problem: str = ""  #: with `none`: why an accepted job could be lost, and the cure


def judge_durability(info: Mapping[str, Any], config: Mapping[str, str]) -> Durability:
    """Judge INFO's answer and that of CONFIG GET append*, empty where the server hides it."""
    if str(info.get("aof_enabled", 0)) != "1":
        return Durability(
            "none",
            "it keeps no append-only file, so an accepted job would die with it: start it with `--appendonly yes`, "
            + _OR_LIVE_WITH_IT,
        )
    if evicts_jobs(info):
        return Durability(
            "none",
            f"it removes any key once its memory is full ({info['maxmemory_policy']}), accepted jobs too: set "
            f"`maxmemory-policy noeviction`, {_OR_LIVE_WITH_IT}",
        )
    fsync = config.get("appendfsync", "")
    if fsync == "always":
        return Durability("always")
    version = str(info.get("valkey_version") or info.get("redis_version") or "0")
    if tuple(map(int, version.split(".")[:2])) >= WAITAOF_VERSION:
        return Durability("waitaof")
    newer = "use Redis or Valkey 7.2 or newer, which sync on demand"
    if not fsync:
        return Durability(
            "none",
            f"its configuration is hidden, so whether version {version} syncs every write is not known: let its user "
            f"run CONFIG GET (ACL `+config|get`), or {newer}; if it is known to run with `appendfsync always`, "
            "set TILEQ_REQUIRE_AOF=false",
        )
    return Durability(
        "none",
        f"its append-only file is synced with `appendfsync {fsync}`, and version {version} can't sync on demand, so a "
        f"crash could lose an accepted job: start it with `--appendfsync always`, or {newer}, {_OR_LIVE_WITH_IT}",
    )


def evicts_jobs(info: Mapping[str, Any]) -> bool:
    """Tell whether the server that INFO describes removes keys without expiry when its memory is full."""
    limited = str(info.get("maxmemory", 0)) != "0"
    return limited and str(info.get("maxmemory_policy", "")).startswith("allkeys")


def not_permitted(command: str, error: Exception) -> Durability:
    """Return the verdict on a server whose user may not run `command`, so that durability is not known."""
    grant = f"let its user run {command} (ACL `+{command.lower()}`)"
    return Durability("none", f"whether it keeps writes is not known ({error}): {grant}, {_OR_LIVE_WITH_IT}")
