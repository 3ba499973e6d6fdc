"""The embedded servers are the real ones, configured to keep what they were given."""

import io
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import redis
from minio.error import S3Error

from services.cli.local.ports import free_ports
from services.cli.local.seaweed import S3, refuses_for_good, seaweed
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from tests.servers import needed

pytestmark = pytest.mark.integration


def test_valkey_writes_everything_down_and_evicts_nothing(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        config = client.config_get("append*", "maxmemory-policy", "bind")
    assert (config["appendonly"], config["appendfsync"]) == ("yes", "always")
    assert config["maxmemory-policy"] == "noeviction"
    assert config["bind"] == "127.0.0.1"


def test_valkey_keeps_the_record_of_a_job_in_one_compact_block(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        client.hset("compact", mapping={"id": "x", "images": "y" * 1000})
        assert client.object("encoding", "compact") == "listpack"
        client.delete("compact")


def test_valkey_has_a_killed_servers_keys_after_the_restart(tmp_path: Path) -> None:
    for turn in range(2):
        (port,) = free_ports(1)
        program = needed(lambda port=port: valkey(tmp_path / "data", port))  # type: ignore[misc]
        with supervised(tmp_path, [[program]]), redis.Redis.from_url(f"redis://127.0.0.1:{port}") as client:
            assert client.get("kept") == (b"1" if turn else None)
            client.set("kept", "1")
            os.kill(int((tmp_path / "run" / "valkey.pid").read_text()), signal.SIGKILL)


def test_objects_survive_new_ports_and_new_credentials(tmp_path: Path) -> None:
    servers: list[S3] = []
    for turn in range(2):
        program, server = needed(lambda: seaweed(tmp_path / "data"))
        servers.append(server)
        with supervised(tmp_path, [[program]]):
            client = server.client()
            client.put_object(server.bucket, f"small-{turn}", io.BytesIO(b"s"), 1)
            client.put_object(server.bucket, f"large-{turn}", io.BytesIO(bytes(9 << 20)), 9 << 20)
            names = sorted(entry.object_name or "" for entry in client.list_objects(server.bucket))
            assert names == sorted(f"{size}-{n}" for size in ("small", "large") for n in range(turn + 1))
            answer = client.get_object(server.bucket, "large-0")
            assert answer.read() == bytes(9 << 20)
            answer.close()
            answer.release_conn()
    assert servers[0].secret_key != servers[1].secret_key


def test_a_wrong_secret_is_refused(s3: S3) -> None:
    thief = S3(s3.url, s3.access_key, "0" * 40, s3.bucket)
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        list(thief.client().list_objects(s3.bucket))


def test_the_s3_server_listens_on_loopback_only(s3: S3) -> None:
    port = int(s3.url.rpartition(":")[2])
    wildcard = [
        line for line in Path("/proc/net/tcp").read_text().splitlines() if f":{port:04X} 00000000:0000 0A" in line
    ]
    assert len(wildcard) == 1
    assert "0100007F:" in wildcard[0]


@pytest.mark.parametrize(
    ("free", "code", "stuck"),
    [(1 << 30, "InternalError", True), (1 << 20, "InternalError", False), (1 << 30, "SlowDown", False)],
)
def test_an_object_storage_that_refuses_although_its_disk_has_room_is_stuck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, code: str, stuck: bool
) -> None:
    def refuse(*_: object) -> None:
        raise S3Error(None, code, "no", "", "", "")  # type: ignore[arg-type]

    monkeypatch.setattr("services.cli.local.seaweed.shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    monkeypatch.setattr(S3, "client", lambda *_, **__: SimpleNamespace(put_object=refuse))
    assert bool(refuses_for_good(S3("http://127.0.0.1:1", "", "", "tileq"), tmp_path)()) is stuck
