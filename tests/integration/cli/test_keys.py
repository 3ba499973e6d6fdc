"""`tileq keys` on a store of somebody else's."""

from pathlib import Path

import pytest

from tests.integration.cli.command import tileq
from tests.valkeys import valkeys

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("fsync", "waits"), [("everysec", True), ("always", False)])
def test_a_key_is_on_disk_before_it_is_shown(fsync: str, waits: bool, tmp_path: Path) -> None:
    with valkeys(tmp_path, {"appendfsync": fsync}) as (server,):
        made = tileq("keys", "create", "acme", env={"TILEQ_REDIS_URL": server.url})
        assert made.stdout.startswith("tq_"), made.stderr
        calls = server.admin.info("commandstats").get("cmdstat_waitaof", {"calls": 0})["calls"]
    assert (calls > 0) is waits


def test_the_variables_of_a_kubernetes_service_do_not_stop_the_command(tmp_path: Path) -> None:
    with valkeys(tmp_path, {}) as (server,):
        links = {"TILEQ_PORT": "tcp://10.96.0.7:8000", "TILEQ_METRICS_PORT": "tcp://10.96.0.8:9000"}
        listed = tileq("keys", "list", env={"TILEQ_REDIS_URL": server.url, **links})
    assert listed.returncode == 0, listed.stderr
