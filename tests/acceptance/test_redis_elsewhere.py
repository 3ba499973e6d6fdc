"""The whole service on a Redis of somebody else's: after a failover, and on a node of a Redis Cluster."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.acceptance.client import Client, events
from tests.receiver import Receiver, receiver
from tests.service import service
from tests.tcp_proxy import tcp_proxy
from tests.valkeys import Server, valkeys
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance
SYNCS_AT_ONCE = {"repl-diskless-sync-delay": "0"}


@pytest.fixture
def hook() -> Iterator[Receiver]:
    hook = receiver()
    with hook.up():
        yield hook


def answered(api: Client, hook: Receiver, prompt: str) -> None:
    """Submit a job and see it answered in every way: record, deltas, webhook."""
    job = api.submit(prompt, webhook={"url": hook.url})
    with api.http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        names = [name for _, name, _ in events(answer)]
    assert (names[-1], "delta" in names) == ("end", True)
    assert api.job(job["id"])["state"] == "succeeded"
    eventually(lambda: job["id"] in {one.json["data"]["id"] for one in hook.arrived}, within=20)


@contextmanager
def clustered(folder: Path) -> Iterator[Server]:
    """A Redis Cluster of one node, which holds every slot."""
    with valkeys(folder, {"cluster-enabled": "yes"}) as (node,):
        node.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")  # type: ignore[no-untyped-call]
        eventually(lambda: "cluster_state:ok" in str(node.admin.execute_command("CLUSTER", "INFO")))  # type: ignore[no-untyped-call]
        yield node


def link_of(replica: Server) -> str:
    return str(replica.admin.info("replication")["master_link_status"])


def test_after_a_failover_behind_one_address_jobs_are_accepted_and_answered(tmp_path: Path, hook: Receiver) -> None:
    with (
        valkeys(tmp_path, SYNCS_AT_ONCE, SYNCS_AT_ONCE) as (first, second),
        tcp_proxy(first.port) as proxy,
    ):
        second.admin.replicaof("127.0.0.1", str(first.port))
        eventually(lambda: link_of(second) == "up")
        with (
            service(env={"TILEQ_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}) as here,
            httpx.Client(base_url=here.url, timeout=60) as http,
        ):
            api = Client(http)
            answered(api, hook, "Before?")
            second.admin.replicaof("NO", "ONE")
            first.admin.replicaof("127.0.0.1", str(second.port))
            proxy.target = second.port
            answered(api, hook, "After?")
            assert http.get("/readyz").status_code == 200
            assert first.admin.info("replication")["role"] == "slave"


def test_a_node_of_a_cluster_is_served_under_a_prefix_with_a_hash_tag(tmp_path: Path, hook: Receiver) -> None:
    with clustered(tmp_path) as cluster:
        env = {"TILEQ_REDIS_URL": cluster.url, "TILEQ_REDIS_PREFIX": "{tileq}:"}
        with service(env=env) as here, httpx.Client(base_url=here.url, timeout=60) as http:
            answered(Client(http), hook, "In one slot?")


@pytest.mark.parametrize("module", ["services.intake", "workers.reconciler", "workers.webhooks", "workers.vision"])
def test_a_cluster_without_a_hash_tag_is_refused_at_start_with_the_cure(module: str, tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        env = {"TILEQ_REDIS_URL": cluster.url, "TILEQ_PORT": "0", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", module], env=env, capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 2
    assert "TILEQ_REDIS_PREFIX={tileq}:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_held_to_the_prefix_and_to_harmless_commands_is_served(tmp_path: Path, hook: Receiver) -> None:
    page = (Path(__file__).parents[2] / "docs" / "running-elsewhere.md").read_text()
    (rules,) = re.findall(r"ACL SETUSER tileq on >PASSWORD ([^`]*)`", page)
    with valkeys(tmp_path, {}) as (server,):
        server.admin.execute_command("ACL", "SETUSER", "tileq", "on", ">PASSWORD", *rules.split())  # type: ignore[no-untyped-call]
        env = {"TILEQ_REDIS_URL": server.url.replace("://", "://tileq:PASSWORD@")}
        with service(env=env) as here, httpx.Client(base_url=here.url, timeout=60) as http:
            answered(Client(http), hook, "Held back?")
            assert http.get("/readyz").status_code == 200
        assert server.admin.acl_log() == []
