"""Digests as servers state them."""

import hashlib
from pathlib import Path

import pytest

from workers.vision.checkpoint.digests import BLOCK_BYTES, Digest, file_hash

CONTENT = bytes(range(256)) * 12_000  # about three blocks


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(CONTENT)
    return tmp_path / "file"


def of_parts(data: bytes, size: int) -> str:
    """By the definition, all in memory."""
    parts = [hashlib.md5(data[start : start + size]).digest() for start in range(0, len(data), size)] or [
        hashlib.md5(b"").digest()
    ]
    return f"{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}"


@pytest.mark.parametrize(
    "size", [1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, len(CONTENT) // 2, len(CONTENT), len(CONTENT) + 1]
)
def test_parts_may_end_anywhere(path: Path, size: int) -> None:
    assert file_hash(path, "md5-parts", size) == of_parts(CONTENT, size)


def test_an_empty_file_is_one_part(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert file_hash(tmp_path / "empty", "md5-parts", 10) == of_parts(b"", 10)


def test_small_files_of_the_hub_are_named_as_git_does(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello\n")  # echo hello | git hash-object --stdin
    assert file_hash(tmp_path / "file", "git-sha1") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_one_changed_byte_is_another_digest(path: Path) -> None:
    digest = Digest("sha256", hashlib.sha256(CONTENT).hexdigest().upper())
    assert digest.matches(path)
    path.write_bytes(CONTENT[:-1] + b"\0")
    assert not digest.matches(path)
