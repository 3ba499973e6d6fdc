"""How a server keeps writes, and what is said where it does not."""

import asyncio
from typing import Any

import fakeredis
import pytest
from redis.exceptions import NoPermissionError

from shared.store.client import AsyncStore
from shared.store.durability import Durability, judge_durability

OLD, NEW = {"aof_enabled": 1, "redis_version": "7.0.15"}, {"aof_enabled": 1, "valkey_version": "9.1.2"}

EVICTING = {"maxmemory": 1 << 30, "maxmemory_policy": "allkeys-lru"}


@pytest.mark.parametrize(
    ("info", "config", "mode"),
    [
        ({"aof_enabled": 0}, {}, "none"),
        ({}, {"appendfsync": "always"}, "none"),
        (OLD, {"appendfsync": "always"}, "always"),
        (NEW, {"appendfsync": "everysec"}, "waitaof"),
        (NEW, {}, "waitaof"),
        ({"aof_enabled": 1, "redis_version": "7.2.4"}, {"appendfsync": "everysec"}, "waitaof"),
        (OLD, {"appendfsync": "everysec"}, "none"),
        (OLD, {}, "none"),
        (NEW | EVICTING, {"appendfsync": "always"}, "none"),
        (NEW | EVICTING | {"maxmemory": 0}, {"appendfsync": "always"}, "always"),
        (NEW | EVICTING | {"maxmemory_policy": "volatile-lru"}, {"appendfsync": "always"}, "always"),
    ],
)
def test_how_a_server_keeps_writes_is_read_off_it(info: dict[str, Any], config: dict[str, str], mode: str) -> None:
    found = judge_durability(info, config)
    assert (found.mode, bool(found.problem)) == (mode, mode == "none")


@pytest.mark.parametrize(
    ("info", "config", "cause", "cure"),
    [
        ({"aof_enabled": 0}, {}, "no append-only file", "--appendonly yes"),
        (OLD, {"appendfsync": "everysec"}, "`appendfsync everysec`", "--appendfsync always"),
        (OLD, {}, "configuration is hidden", "+config|get"),
        (NEW | EVICTING, {"appendfsync": "always"}, "accepted jobs too", "`maxmemory-policy noeviction`"),
    ],
)
def test_each_cause_has_its_own_cure(info: dict[str, Any], config: dict[str, str], cause: str, cure: str) -> None:
    problem = judge_durability(info, config).problem
    assert cause in problem
    assert cure in problem
    assert "TILEQ_REQUIRE_AOF=false" in problem


class Restricted(fakeredis.FakeAsyncRedis):
    """A server whose user may not run one command."""

    denied = ""

    async def info(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return what tells of durability."""
        if self.denied == "INFO":
            raise NoPermissionError("this user has no permissions to run the 'info' command")
        return NEW

    async def config_get(self, *_: Any, **__: Any) -> dict[str | None, str | None]:
        """Return nothing, as a server does that hides its configuration."""
        return {}

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run a command."""
        if self.denied == args[0]:
            raise NoPermissionError("this user has no permissions to run the 'waitaof' command")
        return [0, 0]


@pytest.mark.parametrize("denied", ["INFO", "WAITAOF"])
def test_what_can_not_be_asked_is_not_known_to_be_durable(denied: str) -> None:
    async def ask() -> Durability:
        server = Restricted(decode_responses=True)
        server.denied = denied
        return await AsyncStore(server, "t:").durability()

    found = asyncio.run(ask())
    assert (found.mode, f"+{denied.lower()}" in found.problem) == ("none", True)
