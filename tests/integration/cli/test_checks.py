"""The doctor's checks against servers as they should be, as they should not be, and not there."""

from dataclasses import replace
from pathlib import Path

import pytest

from services.cli import checks
from services.cli.checks import Finding
from services.cli.local.ports import free_ports
from services.cli.local.seaweed import S3
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from shared.settings import Settings
from tests.servers import needed

pytestmark = pytest.mark.integration


def settings_of(**fields: object) -> Settings:
    return Settings(**fields)  # type: ignore[arg-type]


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings}


def test_a_store_as_tileq_needs_it_passes(valkey_url: str, prefix: str) -> None:
    found = by_name(list(checks.store(settings_of(redis_url=valkey_url, redis_prefix=prefix))))
    assert {finding.level for finding in found.values()} == {"ok"}
    assert set(found) == {"job store", "durability", "eviction", "clock"}


def test_a_store_that_forgets_and_evicts_fails_with_what_to_do(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    program = needed(lambda: valkey(tmp_path / "data", port))
    careless = replace(program, argv=[*program.argv, "--appendonly", "no", "--maxmemory-policy", "allkeys-lru"])
    with supervised(tmp_path, [[careless]]):
        found = by_name(list(checks.store(settings_of(redis_url=f"redis://127.0.0.1:{port}/0"))))
    assert (found["job store"].level, found["durability"].level, found["eviction"].level) == ("ok", "fail", "fail")
    assert "appendonly yes" in found["durability"].fix
    assert "noeviction" in found["eviction"].fix


def test_servers_that_are_not_there_fail_with_the_variable_to_set() -> None:
    (port,) = free_ports(1)
    nowhere = settings_of(redis_url=f"redis://:hidden@127.0.0.1:{port}/0", s3_url=f"http://127.0.0.1:{port}")
    for check, variable in (
        (checks.store, "TILEQ_REDIS_URL"),
        (checks.broker, "TILEQ_BROKER_URL"),
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


def test_packages_of_this_environment_are_all_there() -> None:
    found = by_name(list(checks.packages()))
    assert found["packages"].level == "ok", found["packages"]
    assert found["packages for local"].level == "ok", found["packages for local"]


def test_a_full_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))  # type: ignore[attr-defined]
    assert {finding.level for finding in checks.disk(tmp_path / "not" / "yet")} == {"fail"}
