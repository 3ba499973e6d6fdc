"""The sha256 of every file of a checkpoint, and whether they are the pinned ones.

f868398f…b48b  tokenizer.model        one line a file, as `sha256sum` writes and checks it
digest                                sha256 of those lines: one number for the whole checkpoint
"""

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from workers.vision.checkpoint.digests import file_hash
from workers.vision.checkpoint.fields import CheckpointError

HASHED_PATTERNS = (
    "config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "*.safetensors",
    "*.index.json",
)
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LINE = re.compile(r"([0-9a-fA-F]{64})[ ]+\*?(.+)")


@dataclass(frozen=True)
class Checksums:
    """Names and sha256 of a checkpoint's files."""

    files: dict[str, str]

    @property
    def text(self) -> str:
        """A line for each file, by name."""
        return "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))

    @property
    def digest(self) -> str:
        """One sha256 for all."""
        return sha256(self.text.encode()).hexdigest()


def compute_checksums(folder: Path) -> Checksums:
    """Hash every file of `folder` that loading reads."""
    paths = {path for pattern in HASHED_PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return Checksums({path.name: file_hash(path, "sha256") for path in sorted(paths)})


def verify(checksums: Checksums, pinned: str) -> None:
    """Hold `checksums` against a digest or the path of a file of checksums. Raises `CheckpointError`."""
    if _DIGEST.fullmatch(pinned):
        if pinned.lower() != checksums.digest:
            raise CheckpointError(f"TILEQ_MODEL_SHA256 pins {pinned.lower()}, the files are {checksums.digest}")
        return
    expected = _read_pins(Path(pinned))
    for name in sorted(expected.keys() | checksums.files.keys()):
        have, want = checksums.files.get(name), expected.get(name)
        if have != want:
            raise CheckpointError(f"{name}: sha256 is {have or 'missing'}, {pinned} pins {want or 'no such file'}")


def parse_checksums(text: str) -> dict[str, str]:
    """Return sha256 by file name of lines as `sha256sum` writes them. Raises `ValueError` naming a line that is not."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        if not (match := _LINE.fullmatch(line.rstrip())):
            raise ValueError(f"line {number} is not 'sha256  name'")
        found[match[2]] = match[1].lower()
    return found


def _read_pins(path: Path) -> dict[str, str]:
    try:
        text = path.read_text()
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"TILEQ_MODEL_SHA256 is neither 64 hexadecimal digits nor a readable file of checksums: {error}"
        ) from error
    try:
        return parse_checksums(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
