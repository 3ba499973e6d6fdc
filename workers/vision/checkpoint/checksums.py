"""The sha256 of every file that is read, and whether they are the ones that were pinned.

f868398f…b48b  tokenizer.model        one line a file, as `sha256sum` writes and checks it
digest                                sha256 of those lines: one number for the whole checkpoint
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from workers.vision.checkpoint.fields import CheckpointError

READ = ("config.json", "tokenizer.model", "tokenizer.json", "tokenizer_config.json", "*.safetensors", "*.index.json")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
LINE = re.compile(r"([0-9a-fA-F]{64})[ ]+\*?(.+)")


@dataclass(frozen=True)
class Manifest:
    """Names and sha256 of a checkpoint's files."""

    files: dict[str, str]

    @property
    def text(self) -> str:
        """A line for each file, by name."""
        return "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))

    @property
    def digest(self) -> str:
        """One sha256 for all."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def make_manifest(folder: Path) -> Manifest:
    """Hash every file of `folder` that loading reads."""
    paths = {path for pattern in READ for path in folder.glob(pattern) if path.is_file()}
    return Manifest({path.name: _sha256(path) for path in sorted(paths)})


def verify(manifest: Manifest, pinned: str) -> None:
    """Hold `manifest` against a digest or the path of a manifest file. Raises `CheckpointError`."""
    if DIGEST.fullmatch(pinned):
        if pinned.lower() != manifest.digest:
            raise CheckpointError(f"TILEQ_MODEL_SHA256 pins {pinned.lower()}, the files are {manifest.digest}")
        return
    expected = _read(Path(pinned))
    for name in sorted(expected.keys() | manifest.files.keys()):
        have, want = manifest.files.get(name), expected.get(name)
        if have != want:
            raise CheckpointError(f"{name}: sha256 is {have or 'missing'}, {pinned} pins {want or 'no such file'}")


def _read(path: Path) -> dict[str, str]:
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"TILEQ_MODEL_SHA256 is neither 64 hexadecimal digits nor a readable manifest: {error}"
        ) from error
    found = {}
    for number, line in enumerate(lines, 1):
        if not (match := LINE.fullmatch(line.rstrip())):
            raise CheckpointError(f"{path}: line {number} is not 'sha256  name'")
        found[match[2]] = match[1].lower()
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
