"""The stores of docker-compose.yml, started with the very arguments it gives them; places and ports aside."""

import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from minio.error import S3Error
from pydantic import SecretStr

from services.cli.local.ports import free_ports
from services.cli.local.seaweed import S3, seaweed, takes_objects
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from shared.errors import StorageDown
from shared.jobs import Job
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings
from tests.servers import needed
from tests.unit.packaging.compose import compose, filled
from tests.unit.packaging.tree import ROOT
from workers.vision.attempt import Attempt, AttemptAborted
from workers.vision.storage_outages import StorageOutages

SERVICES = compose(filled())["services"]
VISION = {"ACCESS": "b" * 20, "SECRET": "t" * 40}  #: the keys of one role; the others have none
pytestmark = pytest.mark.integration


def placed(argv: list[str], folder: Path) -> list[str]:
    """The arguments with this folder for the container's /data."""
    return [word.replace("/data", str(folder)) for word in argv]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[redis.Redis]:
    """The composed Valkey's client, let in."""
    (port,) = free_ports(1)
    program = needed(lambda: valkey(tmp_path / "data", port))
    here = ["--port", str(port), "--bind", "127.0.0.1"]
    shell, _, _, _, *options = SERVICES["valkey"]["command"]
    start = ROOT / compose(filled())["configs"]["valkey-start"]["file"]
    argv = [shell, str(start), str(tmp_path), program.argv[0], *placed(options, tmp_path / "data"), *here]
    environment = SERVICES["valkey"]["environment"]
    password = environment["VALKEY_PASSWORD"]
    with redis.Redis(port=port, username="operator", password=password, decode_responses=True) as client:

        def probe() -> str:
            try:
                return "" if client.ping() else "no PONG"
            except redis.RedisError as error:
                return str(error)

        with supervised(tmp_path, [[replace(program, argv=argv, env=environment, probe=probe)]]):
            yield client


@pytest.fixture
def objects(tmp_path: Path) -> Iterator[S3]:
    """The composed SeaweedFS."""
    program, server = needed(lambda: seaweed(tmp_path / "data"))
    environment = SERVICES["seaweedfs"]["environment"] | {f"S3_{name}_KEY_VISION": VISION[name] for name in VISION}
    server = S3(server.url, environment["S3_ACCESS_KEY_OPERATOR"], environment["S3_SECRET_KEY_OPERATOR"], "tileq")
    flags = [flag for flag in SERVICES["seaweedfs"]["command"] if not flag.startswith(("-ip.bind=", "-s3.port="))]
    ports = [flag for flag in program.argv if ".port=" in flag]
    shell, *_ = SERVICES["seaweedfs"]["entrypoint"]
    start = ROOT / compose(filled())["configs"]["s3-start"]["file"]
    weed = [shell, str(start), str(tmp_path), program.argv[0]]
    argv = [*weed, *placed(flags, tmp_path / "data"), "-ip.bind=127.0.0.1", *ports]
    with supervised(tmp_path, [[replace(program, argv=argv, env=environment, probe=takes_objects(server))]]):
        yield server


def test_valkey_writes_before_it_answers_forgets_nothing_and_asks_for_a_password(store: redis.Redis) -> None:
    said = {
        name: store.config_get(name)[name]
        for name in ("appendonly", "appendfsync", "maxmemory-policy", "maxmemory", "save")
    }
    assert said == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(1 << 30),
        "save": "",
    }
    port = store.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    password = store.connection_pool.connection_kwargs["password"]
    with redis.Redis(port=port, username="vision", password=password) as role:
        assert role.ping()  # the operator's password, where the role's is empty


def test_valkey_keeps_the_record_of_a_job_in_one_compact_block(store: redis.Redis) -> None:
    store.hset("job", mapping={"id": "x", "images": "y" * 1000})
    assert store.object("encoding", "job") == "listpack"


def test_seaweedfs_takes_objects_from_whoever_has_the_key_and_makes_no_bucket_by_itself(objects: S3) -> None:
    client = objects.client()
    assert client.bucket_exists("tileq")
    with pytest.raises(S3Error, match="NoSuchBucket"):
        client.remove_object("another", "x")
    with pytest.raises(S3Error, match="AccessDenied"):
        replace(objects, secret_key="wrong").client().bucket_exists("tileq")


def test_a_role_with_keys_of_its_own_does_its_own_work_and_one_without_is_nobody(objects: S3, tmp_path: Path) -> None:
    vision = replace(objects, access_key=VISION["ACCESS"], secret_key=VISION["SECRET"]).client()
    vision.put_object("tileq", "jobs/x/result-1.json", io.BytesIO(b"{}"), 2)
    with pytest.raises(S3Error, match="AccessDenied"):
        vision.get_object("tileq", "batches/x.json")
    with pytest.raises(S3Error, match="SignatureDoesNotMatch"):
        replace(objects, access_key=VISION["ACCESS"]).client().get_object("tileq", "jobs/x/result-1.json")
    file = tmp_path / "identities.json"
    assert file.stat().st_mode & 0o077 == 0, "others can read it"
    stored = [one["credentials"][0]["secretKey"] for one in json.loads(file.read_text())["identities"]]
    assert len(set(stored)) == len(stored), "roles share a key"
    assert min(map(len, stored)) >= 40


def test_a_vision_worker_with_keys_of_its_own_notices_the_end_of_an_outage(objects: S3) -> None:
    settings = Settings(s3_url=objects.url, s3_access_key=VISION["ACCESS"], s3_secret_key=SecretStr(VISION["SECRET"]))
    outages, attempt = StorageOutages(S3Storage(settings), hold_s=1), Attempt(Job("job_1", "t", "m"), 0)

    def fail() -> None:
        attempt.abort("release")
        raise StorageDown("503")

    with pytest.raises(AttemptAborted):
        outages.outlast(attempt, fail)
    assert outages.over(threading.Event())


def test_a_key_that_would_break_the_file_is_refused_by_name_and_not_repeated(tmp_path: Path) -> None:
    command = ["sh", str(ROOT / "infra/s3/start.sh"), str(tmp_path), "true"]
    environment = {"PATH": os.environ["PATH"], "S3_ACCESS_KEY_INTAKE": 'x"|'}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "S3_ACCESS_KEY_INTAKE" in done.stderr
    assert 'x"' not in done.stderr
