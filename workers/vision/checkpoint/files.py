"""Which files hold which weights, checked against what the config promises before a byte of them is loaded."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from workers.vision.checkpoint.errors import CheckpointError
from workers.vision.checkpoint.keys import IGNORED, Weight
from workers.vision.checkpoint.safetensors import FLOATS, Entry, Header, read_header

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Files:
    """The weight files of a checkpoint."""

    headers: tuple[Header, ...]

    @property
    def entries(self) -> dict[str, Entry]:
        """Every tensor by its released name."""
        return {name: entry for header in self.headers for name, entry in header.entries.items()}

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.end - entry.start for entry in self.entries.values())


def find_weights(folder: Path) -> Files:
    """Read the headers of the weight files in `folder`. Raises `CheckpointError`."""
    if (folder / INDEX).is_file():
        return _sharded(folder)
    if (folder / SINGLE).is_file():
        return Files((read_header(folder / SINGLE),))
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder / pickles[0]}: a pickle, which can run code when it is read and is never opened here. "
            "Take a revision with .safetensors files, or convert it elsewhere: "
            "safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')"
        )
    raise CheckpointError(f"{folder}: neither {SINGLE} nor {INDEX} is there")


def _sharded(folder: Path) -> Files:
    path = folder / INDEX
    try:
        places: dict[str, str] = json.loads(path.read_bytes())["weight_map"]
        names = sorted({str(name) for name in places.values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: weight_map is missing or broken ({error!r})") from error
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{path}: weight_map names {name!r}, which is no .safetensors file of this folder")
        if not (folder / name).is_file():
            count = sum(1 for place in places.values() if place == name)
            raise CheckpointError(f"{folder / name}: shard is missing; {path.name} expects {count} weights in it")
    headers = {name: read_header(folder / name) for name in names}
    for key, name in places.items():
        if key not in headers[name].entries:
            raise CheckpointError(f"{folder / name}: {key} is missing; {path.name} says that it is here")
    return Files(tuple(headers.values()))


def check(files: Files, weights: Iterable[Weight], folder: Path) -> None:
    """Hold the files against the config: every weight there, of its shape, and nothing else."""
    promised = {weight.key: weight.shape for weight in weights}
    found = files.entries
    where = {name: header.path for header in files.headers for name in header.entries}
    for key, shape in promised.items():
        if key not in found:
            raise CheckpointError(f"{folder}: weight {key} {list(shape)} is missing; config.json promises it")
        if found[key].shape != shape:
            raise CheckpointError(
                f"{where[key]}: {key} has shape {list(found[key].shape)}; config.json promises {list(shape)}"
            )
        if found[key].dtype not in FLOATS:
            raise CheckpointError(f"{where[key]}: {key} is {found[key].dtype}; supported: {', '.join(FLOATS)}")
    unknown = [key for key in found if key not in promised and not key.endswith(IGNORED)]
    if unknown:
        raise CheckpointError(
            f"{where[unknown[0]]}: {unknown[0]} is not a weight of the model in config.json"
            + (f", nor are {len(unknown) - 1} more" if len(unknown) > 1 else "")
        )
