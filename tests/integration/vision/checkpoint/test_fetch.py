"""Checkpoints in object storage are fetched once, resumed, and never with code or pickles."""

import io
from pathlib import Path

import pytest

from services.cli.local.seaweed import S3
from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.checkpoint.fetch import Storage, locate
from workers.vision.checkpoint.fields import CheckpointError

pytestmark = pytest.mark.integration


@pytest.fixture
def storage(s3: S3, tmp_path: Path) -> Storage:
    return Storage(s3.client(20), tmp_path / "cache")


def put(storage: Storage, bucket: str, key: str, data: bytes) -> None:
    storage.client.put_object(bucket, key, io.BytesIO(data), len(data))


def test_a_prefix_is_fetched_once_without_code_or_pickles(s3: S3, storage: Storage, tmp_path: Path) -> None:
    made = write_random(tmp_path / "made")
    for path in made.iterdir():
        put(storage, s3.bucket, f"models/demo/{path.name}", path.read_bytes())
    for name in ("modeling.py", "pytorch_model.bin", "notes.md"):
        put(storage, s3.bucket, f"models/demo/{name}", b"raise SystemExit")
    said: list[str] = []
    folder = locate(f"s3://{s3.bucket}/models/demo", storage, said.append)
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {p.name for p in made.iterdir()}
    assert open_checkpoint(folder).model.id == "tileq-demo"
    assert len(said) == len(list(made.iterdir()))
    said.clear()
    assert locate(f"s3://{s3.bucket}/models/demo/", storage, said.append) == folder
    assert not said, "what is there was fetched again"


def test_a_broken_fetch_goes_on_where_it_ended(s3: S3, storage: Storage, tmp_path: Path) -> None:
    made = write_random(tmp_path / "made")
    for path in made.iterdir():
        put(storage, s3.bucket, f"models/broken/{path.name}", path.read_bytes())
    whole = (made / "model.safetensors").read_bytes()
    (item,) = storage.client.list_objects(s3.bucket, "models/broken/model.safetensors")
    folder = storage.cache / "s3" / s3.bucket / "models" / "broken"
    folder.mkdir(parents=True)
    version = f"{(item.etag or '').strip(chr(34))}-{item.size}"
    (folder / f".model.safetensors.{version}.part").write_bytes(whole[:500_000])
    said: list[str] = []
    locate(f"s3://{s3.bucket}/models/broken", storage, said.append)
    assert (folder / "model.safetensors").read_bytes() == whole
    assert any("from 0.5 MB on" in line for line in said)


def test_what_changed_is_fetched_anew_and_what_went_is_forgotten(s3: S3, storage: Storage) -> None:
    for name, data in (("config.json", b"{}"), ("model.safetensors", b"one")):
        put(storage, s3.bucket, f"models/changed/{name}", data)
    folder = locate(f"s3://{s3.bucket}/models/changed", storage, lambda _: None)
    put(storage, s3.bucket, "models/changed/config.json", b"[]")
    storage.client.remove_object(s3.bucket, "models/changed/model.safetensors")
    locate(f"s3://{s3.bucket}/models/changed", storage, lambda _: None)
    assert (folder / "config.json").read_bytes() == b"[]"
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "says"),
    [("{bucket}/nothing/here", "no file of a checkpoint"), ("no-such-bucket/x", "s3://no-such-bucket/x")],
)
def test_what_is_not_there_is_said(s3: S3, storage: Storage, name: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        locate(f"s3://{name.format(bucket=s3.bucket)}", storage, lambda _: None)


@pytest.mark.parametrize("name", ["s3://", "s3:///x", "s3://bucket/../../etc"])
def test_a_prefix_that_leaves_the_cache_is_refused(storage: Storage, name: str) -> None:
    with pytest.raises(CheckpointError, match="not s3://bucket/prefix"):
        locate(name, storage, lambda _: None)
