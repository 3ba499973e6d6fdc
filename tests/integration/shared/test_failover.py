"""A primary and a replica at one address: after a failover, old connections lead to a server that refuses writes."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import redis

from services.cli.local.ports import free_ports
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from shared.broker import Hints, make_celery
from shared.connections.redis_client import connect, connect_async
from shared.jobs import Job
from shared.settings.roles import Settings
from shared.store import transitions
from shared.store.client import AsyncStore, Store
from shared.store.command import StoreCommand
from tests.chaos.proxy import FaultProxy, Network
from tests.servers import needed
from tests.waiting import eventually


@dataclass
class Pair:
    """Two servers and the address that leads new connections to the primary."""

    ports: list[int]
    address: FaultProxy

    @property
    def settings(self) -> Settings:
        """The settings of a process that knows only the address."""
        return Settings(redis_url=f"redis://127.0.0.1:{self.address.port}/0", redis_timeout=2)

    def fail_over(self) -> None:
        """Make the replica the primary; connections to the old one stay open and get READONLY from now on."""
        with redis.Redis(port=self.ports[0], decode_responses=True) as old:
            old.execute_command("FAILOVER", "TO", "127.0.0.1", self.ports[1])
            eventually(lambda: old.info("replication")["role"] == "slave", 20)
        self.address.upstream = self.ports[1]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    ports = free_ports(2)
    first, second = (needed(lambda port=port: valkey(tmp_path / str(port), port)) for port in ports)  # type: ignore[misc]
    primary = replace(first, argv=[*first.argv, "--repl-diskless-sync-delay", "0"], stop_within=1)
    argv = [*second.argv, "--replicaof", "127.0.0.1", str(ports[0])]
    replica = replace(second, name="replica", argv=argv, stop_within=1)
    stages = [[primary], [replica]]
    with supervised(tmp_path, stages), Network() as network:
        with redis.Redis(port=ports[1], decode_responses=True) as client:
            eventually(lambda: client.info("replication")["master_link_status"] == "up", 20)
        yield Pair(ports, network.proxy("store", ports[0]))


def submission() -> StoreCommand[transitions.SubmitResult]:
    job = Job(id="job_x", tenant="t", model="m", start_within=60, run_within=60, retain=60)
    return transitions.submit("t", [job], max_queued=9, grace=0)


def test_a_store_writes_to_the_new_primary_at_once(pair: Pair) -> None:
    store = Store(connect(pair.settings.store_endpoint), "t:")
    store.run(transitions.read_job("", "job_x"))
    pair.fail_over()
    assert store.run(submission()).outcome == "accepted"
    assert redis.Redis(port=pair.ports[1]).exists("t:job:job_x")


def test_intakes_store_writes_to_the_new_primary_at_once(pair: Pair) -> None:
    async def way() -> str:
        store = AsyncStore(connect_async(pair.settings.store_endpoint), "t:")
        await store.run(transitions.read_job("", "job_x"))
        await asyncio.to_thread(pair.fail_over)
        outcome = (await store.run(submission())).outcome
        await store.client.aclose()
        return outcome

    assert asyncio.run(way()) == "accepted"


def test_hints_reach_the_new_primary_at_once(pair: Pair) -> None:
    hints = Hints(make_celery(pair.settings))
    assert hints.job("m", "job_x")
    pair.fail_over()
    assert hints.job("m", "job_y")
