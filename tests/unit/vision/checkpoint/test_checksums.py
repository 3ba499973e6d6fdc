"""A checkpoint can be pinned to the sha256 of its files."""

from pathlib import Path

import pytest

from tests.random_checkpoint import write_random
from workers.vision.checkpoint.checksums import compute_checksums, verify
from workers.vision.checkpoint.fields import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_random(tmp_path / "tileq-demo")


def test_a_checkpoint_is_pinned_by_digest_or_manifest(folder: Path, tmp_path: Path) -> None:
    checksums = compute_checksums(folder)
    assert set(checksums.files) == {"config.json", "model.safetensors", "tokenizer.model", "tokenizer_config.json"}
    verify(checksums, checksums.digest)
    pins = tmp_path / "pins"
    pins.write_text(checksums.text)
    verify(checksums, str(pins))
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    with pytest.raises(CheckpointError, match="TILEQ_MODEL_SHA256 pins"):
        verify(compute_checksums(folder), checksums.digest)
    with pytest.raises(CheckpointError, match=r"config.json: sha256 is .*, .*pins pins"):
        verify(compute_checksums(folder), str(pins))


@pytest.mark.parametrize("pinned", ["abc", "/nowhere"])
def test_a_pin_that_can_not_be_read_is_named(folder: Path, pinned: str) -> None:
    with pytest.raises(CheckpointError, match="TILEQ_MODEL_SHA256"):
        verify(compute_checksums(folder), pinned)


def test_a_random_checkpoint_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    one, two = write_random(tmp_path / "one", 3), write_random(tmp_path / "two", 3)
    assert compute_checksums(one) == compute_checksums(two)
    assert compute_checksums(one) != compute_checksums(write_random(tmp_path / "other", 4))
