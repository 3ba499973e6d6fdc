"""Digests as servers of files state them, and whether the content of a file has one.

sha256     of the content; S3's x-amz-checksum-sha256, the hub's ETag of a large file
md5        of the content; S3's ETag of an object that was put in one request
md5-parts  S3's ETag of a multipart upload: md5 of the md5s of its parts, `-`, the number of parts
git-sha1   of `blob SIZE\\0` and the content; the hub's ETag of a small file
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

Algorithm = Literal["sha256", "md5", "md5-parts", "git-sha1"]
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Digest:
    """What the content of a file must hash to."""

    algorithm: Algorithm
    value: str
    part_bytes: int = 0  #: of md5-parts

    def matches(self, path: Path) -> bool:
        """Return whether the content of `path` has this digest."""
        return file_hash(path, self.algorithm, self.part_bytes) == self.value.lower()


def file_hash(path: Path, algorithm: Algorithm, part_bytes: int = 0) -> str:
    """Return the digest of the content of `path`."""
    with path.open("rb") as file:
        if algorithm == "md5-parts":
            return _hash_parts(file, part_bytes)
        if algorithm == "git-sha1":
            hashed = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
            for block in _blocks(file):
                hashed.update(block)
            return hashed.hexdigest()
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _hash_parts(file: BinaryIO, part_bytes: int) -> str:
    parts = []
    hashed, left = hashlib.md5(usedforsecurity=False), part_bytes
    for block in _blocks(file):
        at = 0
        while at < len(block):
            piece = block[at : at + left]
            hashed.update(piece)
            at, left = at + len(piece), left - len(piece)
            if not left:
                parts.append(hashed.digest())
                hashed, left = hashlib.md5(usedforsecurity=False), part_bytes
    if left < part_bytes or not parts:
        parts.append(hashed.digest())
    return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}"


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block
