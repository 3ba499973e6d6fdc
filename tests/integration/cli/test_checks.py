"""The doctor's checks against servers as they should be, as they should not be, and not there."""

import re
import socket
import time
from pathlib import Path

import httpx
import pytest
import redis

from services.cli import checks
from services.cli.checks import Finding
from services.cli.local.ports import free_ports
from services.cli.local.seaweed import S3
from services.cli.remedies import durability_remedy
from shared.ids import new_id
from shared.settings.roles import Settings
from shared.store import transitions
from shared.store.client import Store
from shared.store.durability import judge_durability
from tests.valkeys import valkeys
from tests.waiting import eventually

pytestmark = pytest.mark.integration


def settings_of(**fields: object) -> Settings:
    return Settings(**{"redis_timeout": 1, **fields})  # type: ignore[arg-type]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_a_store_as_tileq_needs_it_passes(valkey_url: str, prefix: str) -> None:
    found = by_name(list(checks.store(settings_of(redis_url=valkey_url, redis_prefix=prefix))))
    assert {finding.level for finding in found.values()} == {"ok"}
    assert set(found) == {"job store", "durability", "eviction", "clock"}


def test_an_address_with_a_path_of_the_api_is_told_apart_from_a_service_that_is_not_ready(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(httpx, "get", lambda *_, **__: httpx.Response(404, json={"code": "not_found"}))
    [found] = checks.service("http://127.0.0.1:8000/v1")
    assert (found.level, "without /v1" in found.fix) == ("fail", True)


def test_workers_fast_paths_are_listed_with_what_to_do_about_those_that_are_missing(
    valkey_url: str, prefix: str
) -> None:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        store = Store(client, prefix)
        card = {
            "fast_paths": {
                "rows, 1": ["used", "2x"],
                "rows, 16": ["used", "2x"],
                "answers": ["missing", "no cc"],
                "tiles": ["slower", "0.5x"],
            }
        }
        store.run(transitions.register_worker("mini", "a", card, 60))
        store.run(transitions.register_worker("gone", "b", card, 0))
    found = by_name(list(checks.workers(settings_of(redis_url=valkey_url, redis_prefix=prefix))))
    assert found["fast paths of mini"] == Finding("ok", "fast paths of mini", "rows, 1; rows, 16")
    assert found["answers of mini"].level == "warn"
    assert "no cc" in found["answers of mini"].seen
    assert "gcc" in found["answers of mini"].fix
    assert found["tiles of mini"].level == "ok"
    assert not [name for name in found if "gone" in name]


@pytest.mark.parametrize(("waits_s", "level"), [(-30, "ok"), (5, "ok"), (600, "fail")])
def test_batches_of_files_that_nobody_works_on_are_told(
    valkey_url: str, prefix: str, waits_s: float, level: str
) -> None:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        client.zadd(f"{prefix}batches_due", {new_id("batch"): time.time() - waits_s})
    (finding,) = checks.workers(settings_of(redis_url=valkey_url, redis_prefix=prefix))
    assert (finding.what, finding.level) == ("batches of files", level)
    assert ("services.intake.batches" in finding.fix) is (level == "fail")


def advised(finding: Finding, admin: "redis.Redis") -> None:
    """Do what a finding says."""
    commands = re.findall(r"CONFIG SET (\S+) ([^\s,]+)", finding.fix)
    assert commands, finding
    for name, value in commands:
        admin.config_set(name, value)


def store_findings(url: str, **changes: object) -> dict[str, Finding]:
    return by_name(list(checks.store(settings_of(redis_url=url, **changes))))


def test_a_store_that_forgets_and_evicts_passes_once_the_advice_is_followed(tmp_path: Path) -> None:
    careless = {"appendonly": "no", "appendfsync": "everysec", "maxmemory-policy": "allkeys-lru"}
    with valkeys(tmp_path, careless) as (server,):
        found = store_findings(server.url)
        for what in ("durability", "eviction"):
            assert found[what].level == "fail"
            advised(found[what], server.admin)
        assert {finding.level for finding in store_findings(server.url).values()} == {"ok"}


def test_a_version_that_can_not_sync_on_demand_is_told_to_sync_always(tmp_path: Path) -> None:
    fix = durability_remedy({"aof_enabled": 1, "redis_version": "7.0.15"}, {"appendfsync": "everysec"})
    assert fix.startswith("CONFIG SET appendfsync always")
    with valkeys(tmp_path, {"appendfsync": "everysec"}) as (server,):
        advised(Finding("fail", "durability", "", fix), server.admin)
        config = {str(name): str(value) for name, value in server.admin.config_get("append*").items()}
    assert judge_durability({"aof_enabled": 1, "redis_version": "7.0.15"}, config).mode == "always"


def test_where_configuration_is_hidden_the_advice_names_the_services_parameters() -> None:
    assert durability_remedy({"aof_enabled": 0, "redis_version": "7.0.15"}, {}) == (
        "set appendonly yes and appendfsync always in the parameters of the service"
    )
    assert durability_remedy({"aof_enabled": 1, "redis_version": "7.0.15"}, {}) == (
        "set appendfsync always in the parameters of the service"
    )


def test_what_the_user_may_not_run_is_granted_by_the_advice(tmp_path: Path) -> None:
    with valkeys(tmp_path, {}) as (server,):
        rules = ("on", ">s3cret", "~*", "&*", "+@all", "-info")
        server.admin.execute_command("ACL", "SETUSER", "app", *rules)  # type: ignore[no-untyped-call]
        url = server.url.replace("//", "//app:s3cret@")
        finding = store_findings(url)["durability"]
        granted = re.search(r"ACL `(\S+)`", finding.fix)
        assert granted is not None, finding
        server.admin.execute_command("ACL", "SETUSER", "app", granted[1])  # type: ignore[no-untyped-call]
        assert store_findings(url)["durability"].level == "ok"


def test_a_missing_or_wrong_password_is_told_as_such(tmp_path: Path) -> None:
    with valkeys(tmp_path, {}) as (server,):
        server.admin.config_set("requirepass", "s3cret")
        for url in (server.url, server.url.replace("//", "//:wrong@")):
            for check in (checks.store, checks.broker):
                (finding,) = check(settings_of(redis_url=url))
                assert "redis://USER:PASSWORD@HOST" in finding.fix, finding
                assert "wrong" not in finding.seen
        good = server.url.replace("//", "//default:s3cret@")
        assert store_findings(good)["job store"].level == "ok"
        (finding,) = checks.broker(settings_of(redis_url=good))
        assert finding.level == "ok"


def test_a_replica_is_told_from_its_primary(tmp_path: Path) -> None:
    with valkeys(tmp_path, {}, {}) as (primary, replica):
        replica.admin.replicaof("127.0.0.1", str(primary.port))
        eventually(lambda: replica.admin.info("replication")["master_link_status"] == "up", 20)
        (finding,) = checks.store(settings_of(redis_url=replica.url))
        assert "is a replica; name the primary in TILEQ_REDIS_URL" in finding.fix, finding
        assert store_findings(primary.url)["job store"].level == "ok"


def test_full_memory_is_told_as_such_and_passes_with_more(tmp_path: Path) -> None:
    with valkeys(tmp_path, {"maxmemory": "1"}) as (server,):
        (finding,) = checks.store(settings_of(redis_url=server.url))
        assert "CONFIG SET maxmemory" in finding.fix, finding
        server.admin.config_set("maxmemory", "0")
        assert store_findings(server.url)["job store"].level == "ok"


def test_tls_where_there_is_none_and_none_where_there_is_is_told_as_such(tmp_path: Path) -> None:
    with valkeys(tmp_path, {}) as (server,):
        (finding,) = checks.store(settings_of(redis_url=server.url.replace("redis://", "rediss://")))
        assert "begin TILEQ_REDIS_URL with redis://" in finding.fix, finding
        assert store_findings(server.url)["job store"].level == "ok"


def test_each_refusal_of_the_object_storage_has_its_remedy(s3: S3) -> None:
    good = {"s3_url": s3.url, "s3_access_key": s3.access_key, "s3_secret_key": s3.secret_key, "s3_bucket": s3.bucket}
    for change, variable in (
        ({"s3_access_key": "stranger"}, "TILEQ_S3_ACCESS_KEY"),
        ({"s3_secret_key": "wrong" * 5}, "TILEQ_S3_SECRET_KEY"),
        ({"s3_url": s3.url.replace("http://", "https://")}, "begin TILEQ_S3_URL with http://"),
    ):
        (finding,) = checks.storage(settings_of(**{**good, **change}))
        assert finding.level == "fail"
        assert variable in finding.fix, finding
    (finding,) = checks.storage(settings_of(**good))
    assert finding.level == "ok"


def test_servers_that_are_not_there_fail_with_the_variable_to_set() -> None:
    (port,) = free_ports(1)
    nowhere = settings_of(redis_url=f"redis://:hidden@127.0.0.1:{port}/0", s3_url=f"http://127.0.0.1:{port}")
    for check, variable in (
        (checks.store, "TILEQ_REDIS_URL"),
        (checks.broker, "TILEQ_REDIS_URL"),
        (checks.storage, "TILEQ_S3_URL"),
    ):
        (finding,) = check(nowhere)
        assert finding.level == "fail"
        assert variable in finding.fix
        assert "hidden" not in finding.seen


def test_object_storage_is_written_read_and_cleaned(s3: S3) -> None:
    good = settings_of(s3_url=s3.url, s3_access_key=s3.access_key, s3_secret_key=s3.secret_key, s3_bucket=s3.bucket)
    (finding,) = checks.storage(good)
    assert finding.level == "ok", finding
    assert "written, read and removed" in finding.seen
    (finding,) = checks.storage(good.model_copy(update={"s3_access_key": "stranger"}))
    assert finding.level == "fail"


def test_the_broker_is_reached(valkey_url: str, prefix: str) -> None:
    (finding,) = checks.broker(settings_of(redis_url=valkey_url, redis_prefix=prefix))
    assert (finding.level, "0 hints wait" in finding.seen) == ("ok", True)


def test_the_egress_proxy_is_reached_where_there_is_one() -> None:
    assert list(checks.egress_proxy(settings_of())) == []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        url = f"http://user:s3cret@127.0.0.1:{proxy.getsockname()[1]}"
        (finding,) = checks.egress_proxy(settings_of(webhook_proxy=url))
        assert finding.level == "ok"
    (finding,) = checks.egress_proxy(settings_of(webhook_proxy=url))
    assert (finding.level, "TILEQ_WEBHOOK_PROXY" in finding.fix) == ("fail", True)
    assert "s3cret" not in str(finding)


def test_packages_of_this_environment_are_all_there() -> None:
    found = by_name(list(checks.packages()))
    assert found["packages"].level == "ok", found["packages"]
    assert found["packages for local"].level == "ok", found["packages for local"]


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))  # type: ignore[attr-defined]
    assert {finding.level for finding in checks.disk(tmp_path / "not" / "yet")} == {"fail"}


def test_a_cluster_needs_a_hash_tag_in_the_prefix(tmp_path: Path) -> None:
    with valkeys(tmp_path, {"cluster-enabled": "yes"}) as (node,):
        node.admin.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")  # type: ignore[no-untyped-call]
        eventually(lambda: "cluster_state:ok" in str(node.admin.execute_command("CLUSTER", "INFO")))  # type: ignore[no-untyped-call]
        found = by_name(list(checks.store(settings_of(redis_url=node.url))))
        assert found["cluster"].level == "fail"
        assert "TILEQ_REDIS_PREFIX={tileq}:" in found["cluster"].fix
        assert "cluster" not in by_name(list(checks.store(settings_of(redis_url=node.url, redis_prefix="{tileq}:"))))
