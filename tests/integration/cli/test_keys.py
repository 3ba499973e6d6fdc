"""`tileq keys` on a store of somebody else's."""

import json
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


def test_scopes_and_limits_are_set_shown_and_audited(tmp_path: Path) -> None:
    with valkeys(tmp_path, {}) as (server,):
        env = {"TILEQ_REDIS_URL": server.url, "TILEQ_LIMIT_TOKENS": "1000"}
        made = tileq("keys", "create", "acme", "--scope", "read", "--scope", "submit", "--max-priority", "low", env=env)
        set_ = tileq("keys", "limits", "acme", "--requests", "60", env=env)
        tileq("keys", "limits", "acme", "--queued", "5", env=env)
        shown = json.loads(tileq("keys", "limits", "acme", "--json", env=env).stdout)
        (key,) = map(json.loads, tileq("keys", "list", "--json", env=env).stdout.splitlines())
        revoked = tileq("keys", "revoke", key["id"], env=env)
        reset = tileq("keys", "limits", "acme", "--reset", env=env)
    assert (key["scopes"], key["max_priority"]) == (["read", "submit"], "low")
    assert [(one["limit"], one["value"], one["from"], one["used"]) for one in shown["limits"]] == [
        ("requests", 60, "own", None),
        ("queued", 5, "own", 0),
        ("bytes", 0, "settings", 0),
        ("tokens", 1000, "settings", 0),
    ]
    assert "own" not in reset.stdout
    audited = [json.loads(done.stderr.splitlines()[0]) for done in (made, set_, revoked)]
    assert [(line["event"], line["act"], line["target"]) for line in audited] == [
        ("audit", "key.create", key["id"]),
        ("audit", "limits.set", "acme"),
        ("audit", "key.revoke", key["id"]),
    ]
    assert made.stdout.strip() not in made.stderr


def test_secrets_in_plain_are_encrypted_by_the_command(tmp_path: Path) -> None:
    with valkeys(tmp_path, {}) as (server,):
        client = server.admin
        client.hset("tileq:secret:acme", "current", "whsec_c2VjcmV0")
        env = {"TILEQ_REDIS_URL": server.url, "TILEQ_SECRETS_KEY": tileq("secrets", "new-key").stdout.strip()}
        done = tileq("secrets", "reencrypt", env=env | {"TILEQ_S3_URL": "http://127.0.0.1:9"})
        assert str(client.hget("tileq:secret:acme", "current")).startswith("enc:v1:")
    assert done.returncode == 1  # the object storage could not be read
    assert "run it again" in done.stderr
    assert "Traceback" not in done.stderr
    assert "whsec_" not in done.stdout + done.stderr
