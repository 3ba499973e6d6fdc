"""The safetensors files of a checkpoint: found, and held against what the config promises before a byte is loaded.

A file is an 8-byte length, a JSON header with shapes and places, then the bytes
(https://huggingface.co/docs/safetensors, "Format"). It is read here rather than by the library because a copy out of
the library's map leaves every page of the file in the process beside the copy: twice the weights. `MappedFile`
releases each tensor's pages once they are copied.
"""

import json
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.checkpoint.weight_map import IGNORED_SUFFIXES, ReleasedTensor

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
PICKLE_PATTERNS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
MAX_HEADER_BYTES = 100 << 20  # the library's own limit
ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOAT_TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  #: safetensors' to torch's


@dataclass(frozen=True)
class TensorEntry:
    """A tensor of a file, as its header says."""

    shape: tuple[int, ...]
    dtype: str
    start: int  #: first byte, from the beginning of the file
    end: int


@dataclass(frozen=True)
class WeightFile:
    """A safetensors file and what its header says it holds."""

    path: Path
    entries: dict[str, TensorEntry]


@dataclass(frozen=True)
class WeightFiles:
    """The weight files of a checkpoint."""

    files: tuple[WeightFile, ...]

    @property
    def entries(self) -> dict[str, TensorEntry]:
        """Every tensor by its released name."""
        return {name: entry for file in self.files for name, entry in file.entries.items()}

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.end - entry.start for entry in self.entries.values())


class MappedFile:
    """A weight file mapped into memory; the map goes when the last view of `buffer` does."""

    def __init__(self, file: WeightFile) -> None:
        self.entries = file.entries
        with file.path.open("rb") as opened:
            # A private map: torch wants writable memory, and nothing is ever written.
            self.buffer = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)

    def release(self, name: str) -> None:
        """Take the tensor's pages out of the process; read again, they come from the file."""
        entry = self.entries[name]
        start = entry.start - entry.start % mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED, start, entry.end - start)


def find_weight_files(folder: Path) -> WeightFiles:
    """Read the headers of the weight files in `folder`. Raises `CheckpointError`."""
    if (folder / INDEX_FILE).is_file():
        return _find_shards(folder)
    if (folder / SINGLE_FILE).is_file():
        return WeightFiles((read_header(folder / SINGLE_FILE),))
    pickles = sorted(path.name for pattern in PICKLE_PATTERNS for path in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder / pickles[0]}: a pickle, which can run code when it is read and is never opened here. "
            "Take a revision with .safetensors files, or convert it elsewhere: "
            "safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')"
        )
    raise CheckpointError(f"{folder}: neither {SINGLE_FILE} nor {INDEX_FILE} is there")


def check_weights(files: WeightFiles, tensors: Iterable[ReleasedTensor], folder: Path) -> None:
    """Hold the files against the config: every tensor there, of its shape, and nothing else.

    Raises `CheckpointError`.
    """
    promised = {tensor.key: tensor.shape for tensor in tensors}
    found = files.entries
    paths = {name: file.path for file in files.files for name in file.entries}
    for key, shape in promised.items():
        if key not in found:
            raise CheckpointError(f"{folder}: weight {key} {list(shape)} is missing; config.json promises it")
        if found[key].shape != shape:
            raise CheckpointError(
                f"{paths[key]}: {key} has shape {list(found[key].shape)}; config.json promises {list(shape)}"
            )
        if found[key].dtype not in FLOAT_TYPES:
            raise CheckpointError(f"{paths[key]}: {key} is {found[key].dtype}; supported: {', '.join(FLOAT_TYPES)}")
    unknown = [key for key in found if key not in promised and not key.endswith(IGNORED_SUFFIXES)]
    if unknown:
        raise CheckpointError(
            f"{paths[unknown[0]]}: {unknown[0]} is not a weight of the model in config.json"
            + (f", nor are {len(unknown) - 1} more" if len(unknown) > 1 else "")
        )


def read_header(path: Path) -> WeightFile:
    """Read the header and hold it against the file's size. Raises `CheckpointError`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(f"{path}: not a safetensors file, or cut off within its header")
            header = json.loads(file.read(length))
        entries = {name: _entry(value, 8 + length) for name, value in header.items() if name != "__metadata__"}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not there") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its safetensors header is broken ({error!r})") from error
    for name, entry in entries.items():
        if entry.end > size:
            raise CheckpointError(f"{path}: cut off: {name} ends at byte {entry.end}, the file at {size}")
    return WeightFile(path, entries)


def _entry(value: dict[str, Any], base: int) -> TensorEntry:
    start, end = (base + int(offset) for offset in value["data_offsets"])
    entry = TensorEntry(tuple(int(side) for side in value["shape"]), str(value["dtype"]), start, end)
    size = ITEM_BYTES[entry.dtype]
    for side in entry.shape:
        size *= side
    if size != end - start or start < base:
        raise ValueError(f"{entry} says {size} bytes")
    return entry


def _find_shards(folder: Path) -> WeightFiles:
    path = folder / INDEX_FILE
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
    files = {name: read_header(folder / name) for name in names}
    for key, name in places.items():
        if key not in files[name].entries:
            raise CheckpointError(f"{folder / name}: {key} is missing; {path.name} says that it is here")
    return WeightFiles(tuple(files.values()))
