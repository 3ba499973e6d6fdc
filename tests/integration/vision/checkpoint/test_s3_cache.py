"""Checkpoints in object storage are fetched once, verified by their hash, and never with code or pickles."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from minio import Minio
from minio.error import S3Error
from urllib3 import HTTPResponse
from urllib3.exceptions import ProtocolError

from services.cli.local.seaweed import S3
from tests.random_checkpoint import write_random
from workers.vision.checkpoint import s3_cache
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.checkpoint.fetch import locate
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.checkpoint.s3_cache import RemoteFile, stated_digest

pytestmark = pytest.mark.integration


class Bucket:
    """A bucket and a cache, with everything that was reported."""

    def __init__(self, client: Minio, name: str, cache: Path) -> None:
        self.client, self.name, self.cache = client, name, cache
        self.reports: list[str] = []

    def put(self, key: str, data: bytes, **options: Any) -> None:
        self.client.put_object(self.name, key, io.BytesIO(data), len(data), **options)

    def put_checkpoint(self, prefix: str, made: Path) -> dict[str, bytes]:
        files = {path.name: path.read_bytes() for path in made.iterdir()}
        for name, data in files.items():
            self.put(f"{prefix}/{name}", data)
        return files

    def locate(self, prefix: str) -> Path:
        self.reports.clear()
        return locate(f"s3://{self.name}/{prefix}", self.client, self.cache, self.reports.append)

    @property
    def fetched(self) -> list[str]:
        """Names of the files that the last call fetched."""
        return [line.split()[1].rstrip(",") for line in self.reports if line.startswith("fetching ")]


@pytest.fixture
def bucket(s3: S3, tmp_path: Path) -> Bucket:
    return Bucket(s3.client(20), s3.bucket, tmp_path / "cache")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_prefix_is_fetched_once_without_code_or_pickles(bucket: Bucket, tmp_path: Path) -> None:
    files = bucket.put_checkpoint("models/demo", write_random(tmp_path / "made"))
    for name in ("modeling.py", "pytorch_model.bin", "notes.md"):
        bucket.put(f"models/demo/{name}", b"raise SystemExit")
    folder = bucket.locate("models/demo")
    assert content(folder) == files
    assert open_checkpoint(folder).model.id == "tileq-demo"
    assert sorted(bucket.fetched) == sorted(files)
    assert bucket.locate("models/demo/") == folder
    assert not bucket.fetched


PROGRAM = """
import sys
from collections.abc import Iterator
from pathlib import Path
from minio import Minio
from workers.vision.checkpoint.fetch import locate
host, access, secret, name, cache = sys.argv[1:]
client = Minio(host, access, secret, secure=False, region="us-east-1")
print("ready", flush=True)
sys.stdin.readline()
print(locate(name, client, Path(cache), lambda line: print(line, flush=True)), flush=True)
"""


def test_two_processes_on_an_empty_cache_fetch_each_file_once(s3: S3, bucket: Bucket, tmp_path: Path) -> None:
    files = bucket.put_checkpoint("models/two", write_random(tmp_path / "made"))
    files["model-00002-of-00002.safetensors"] = bytes(range(256)) * 40_000
    bucket.put("models/two/model-00002-of-00002.safetensors", files["model-00002-of-00002.safetensors"])
    address = [s3.url.removeprefix("http://"), s3.access_key, s3.secret_key]
    command = [sys.executable, "-c", PROGRAM, *address, f"s3://{bucket.name}/models/two", str(bucket.cache)]
    workers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("go\n")
        worker.stdin.flush()
    said = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    folders = {Path(lines.splitlines()[-1]) for lines in said}
    assert [content(folder) for folder in folders] == [files]
    assert "".join(said).count("fetching ") == len(files)


def test_a_broken_fetch_goes_on_where_it_ended(bucket: Bucket, tmp_path: Path) -> None:
    files = bucket.put_checkpoint("models/broken", write_random(tmp_path / "made"))
    folder = bucket.locate("models/broken")
    (folder / "model.safetensors").unlink()
    (folder / ".model.safetensors.0.part").write_bytes(files["model.safetensors"][:500_000])
    assert bucket.locate("models/broken") == folder
    assert content(folder) == files
    assert any("from 0.5 MB on" in line for line in bucket.reports)


def test_a_part_with_wrong_bytes_is_not_believed(bucket: Bucket, tmp_path: Path) -> None:
    files = bucket.put_checkpoint("models/mixed", write_random(tmp_path / "made"))
    folder = bucket.locate("models/mixed")
    (folder / "model.safetensors").unlink()
    (folder / ".model.safetensors.0.part").write_bytes(bytes(500_000))
    bucket.locate("models/mixed")
    assert content(folder) == files
    assert bucket.fetched == ["model.safetensors"] * 2
    assert not list(folder.glob(".*.part"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("damage", ["one byte", "doubled", "emptied"])
def test_a_damaged_file_is_found_and_fetched_again(bucket: Bucket, tmp_path: Path, name: str, damage: str) -> None:
    files = bucket.put_checkpoint("models/damaged", write_random(tmp_path / "made"))
    folder = bucket.locate("models/damaged")
    data = files[name]
    flipped = bytes([data[0], data[1] ^ 1]) + data[2:]
    (folder / name).write_bytes({"one byte": flipped, "doubled": data * 2, "emptied": b""}[damage])
    bucket.locate("models/damaged")
    assert content(folder) == files
    assert bucket.fetched == [name]
    assert any("damaged" in line and name in line for line in bucket.reports)


def test_a_record_of_checksums_is_not_believed_against_the_server(bucket: Bucket, tmp_path: Path) -> None:
    files = bucket.put_checkpoint("models/record", write_random(tmp_path / "made"))
    folder = bucket.locate("models/record")
    (folder / ".checksums").write_text("nonsense")
    assert bucket.locate("models/record") == folder
    assert not bucket.fetched
    (folder / "config.json").write_bytes(b"{}")
    bucket.locate("models/record")
    assert content(folder) == files


def test_a_new_version_takes_over_what_did_not_change(bucket: Bucket, tmp_path: Path) -> None:
    files = bucket.put_checkpoint("models/changed", write_random(tmp_path / "made"))
    first = bucket.locate("models/changed")
    changed = files["config.json"] + b"\n"
    bucket.put("models/changed/config.json", changed)
    bucket.client.remove_object(bucket.name, "models/changed/tokenizer_config.json")
    second = bucket.locate("models/changed")
    assert bucket.fetched == ["config.json"]
    assert content(first) == files, "a worker may still be loading it"
    assert content(second) == {name: data for name, data in files.items() if name != "tokenizer_config.json"} | {
        "config.json": changed
    }


def test_a_version_unused_for_a_day_is_removed(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put_checkpoint("models/old", write_random(tmp_path / "made"))
    first = bucket.locate("models/old")
    (first.parent / "config.json").write_text("of the former layout")
    bucket.put("models/old/config.json", b"{}")
    monkeypatch.setattr(s3_cache, "OLD_VERSION_TTL_S", -1.0)
    second = bucket.locate("models/old")
    assert sorted(path.name for path in first.parent.iterdir()) == sorted([second.name, ".lock"])
    assert any("removing an old version" in line for line in bucket.reports)


def test_an_object_of_several_parts_is_verified(bucket: Bucket) -> None:
    data = bytes(range(256)) * 50_000  # 12.8 MB
    bucket.put("models/parts/model.safetensors", data, part_size=5 << 20)
    (item,) = bucket.client.list_objects(bucket.name, "models/parts/")
    remote = RemoteFile(bucket.name, "models/parts/model.safetensors", str(item.etag).strip('"'), len(data))
    digest = stated_digest(bucket.client, remote)
    assert digest
    assert (digest.algorithm, digest.part_bytes) == ("md5-parts", 5 << 20)
    folder = bucket.locate("models/parts")
    assert bucket.fetched == ["model.safetensors"]
    (folder / ".checksums").unlink()
    bucket.locate("models/parts")
    assert not bucket.fetched


class BreakingResponse:
    """A response whose connection breaks after some bytes."""

    def __init__(self, response: Any, count: int) -> None:
        self._response, self._count = response, count

    def stream(self, size: int) -> Iterator[bytes]:
        del size
        yield self._response.read(self._count)
        raise ProtocolError("the connection broke")

    def close(self) -> None:
        self._response.close()

    def release_conn(self) -> None:
        self._response.release_conn()


def test_a_connection_that_breaks_is_made_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = bucket.put_checkpoint("models/breaking", write_random(tmp_path / "made"))
    get = bucket.client.get_object
    monkeypatch.setattr(s3_cache, "RETRY_DELAYS_S", (0.0,))
    monkeypatch.setattr(bucket.client, "get_object", lambda *a, **k: BreakingResponse(get(*a, **k), 300_000))
    assert content(bucket.locate("models/breaking")) == files
    assert sum("the connection broke; going on" in line for line in bucket.reports) > 2


@pytest.mark.parametrize(("code", "requests"), [("SlowDown", 3), ("AccessDenied", 1)])
def test_only_an_error_that_may_pass_is_repeated(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, requests: int
) -> None:
    bucket.put_checkpoint("models/refused", write_random(tmp_path / "made"))
    asked = []

    def refuse(*_: Any, **options: Any) -> Any:
        asked.append(options)
        raise S3Error(HTTPResponse(), code, code, "", "", "")

    monkeypatch.setattr(s3_cache, "RETRY_DELAYS_S", (0.0, 0.0))
    monkeypatch.setattr(bucket.client, "get_object", refuse)
    with pytest.raises(CheckpointError, match=code):
        bucket.locate("models/refused")
    assert len(asked) == requests


class TestAServerWhoseEtagIsNoHash:
    @pytest.fixture(autouse=True)
    def _etag(self, monkeypatch: pytest.MonkeyPatch) -> None:
        listed = s3_cache._list

        def with_other_etags(*args: Any) -> list[RemoteFile]:
            return [RemoteFile(remote.bucket, remote.key, "0" * 32, remote.size) for remote in listed(*args)]

        monkeypatch.setattr(s3_cache, "_list", with_other_etags)

    def test_two_fetches_that_agree_are_believed_and_remembered(self, bucket: Bucket, tmp_path: Path) -> None:
        files = bucket.put_checkpoint("models/etag", write_random(tmp_path / "made"))
        folder = bucket.locate("models/etag")
        assert content(folder) == files
        assert sorted(bucket.fetched) == sorted([*files, *files])
        bucket.locate("models/etag")
        assert not bucket.fetched

    def test_damage_is_found_by_what_was_remembered(self, bucket: Bucket, tmp_path: Path) -> None:
        files = bucket.put_checkpoint("models/etag2", write_random(tmp_path / "made"))
        folder = bucket.locate("models/etag2")
        (folder / "config.json").write_bytes(files["config.json"].replace(b"tileq", b"qelit"))
        bucket.locate("models/etag2")
        assert content(folder) == files


def test_a_read_only_cache_is_served(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = bucket.put_checkpoint("models/readonly", write_random(tmp_path / "made"))
    folder = bucket.locate("models/readonly")

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("os.utime", refuse)
    assert bucket.locate("models/readonly") == folder
    assert content(folder) == files


@pytest.mark.parametrize(
    ("name", "says"),
    [("{bucket}/nothing/here", "no file of a checkpoint"), ("no-such-bucket/x", "s3://no-such-bucket/x")],
)
def test_an_absent_checkpoint_is_named(bucket: Bucket, name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        locate(f"s3://{name.format(bucket=bucket.name)}", bucket.client, bucket.cache)


@pytest.mark.parametrize("name", ["s3://", "s3:///x", "s3://bucket/../../etc"])
def test_a_prefix_that_leaves_the_cache_is_refused(bucket: Bucket, name: str) -> None:
    with pytest.raises(CheckpointError, match="not s3://bucket/prefix"):
        locate(name, bucket.client, bucket.cache)
