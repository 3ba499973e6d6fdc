"""Maps safetensors files: an 8-byte length, a JSON header with shapes and places, then the bytes.

Read here rather than by the library because a copy out of the library's map leaves every page of the file in the
process beside the copy: twice the weights. This map lets go of each tensor's pages once they are copied.
"""

import json
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workers.vision.checkpoint.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

LONGEST_HEADER = 100 << 20  # the library's own limit
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file, as its header says."""

    shape: tuple[int, ...]
    dtype: str
    start: int  #: from the beginning of the file
    end: int


@dataclass(frozen=True)
class Header:
    """What a file says it holds."""

    path: Path
    entries: dict[str, Entry]


def read_header(path: Path) -> Header:
    """Read the header and hold it against the file's size. Raises `CheckpointError`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
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
    return Header(path, entries)


def _entry(value: dict[str, Any], base: int) -> Entry:
    start, end = (base + int(offset) for offset in value["data_offsets"])
    entry = Entry(tuple(int(side) for side in value["shape"]), str(value["dtype"]), start, end)
    size = WIDTHS[entry.dtype]
    for side in entry.shape:
        size *= side
    if size != end - start or start < base:
        raise ValueError(f"{entry} says {size} bytes")
    return entry


class Map:
    """The mapped file of a header; it goes when the last view of it does."""

    def __init__(self, header: Header) -> None:
        self._header = header
        with header.path.open("rb") as file:
            # A private map: torch wants writable memory, and nothing is ever written.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)

    def tensor(self, name: str) -> "Tensor":
        """The tensor, as a view of the file."""
        import torch  # noqa: PLC0415 - headers are read by processes without torch

        entry = self._header.entries[name]
        dtype = getattr(torch, FLOATS[entry.dtype])
        count = (entry.end - entry.start) // WIDTHS[entry.dtype]
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=entry.start).reshape(entry.shape)

    def forget(self, name: str) -> None:
        """Take the tensor's pages out of the process; read again, they come from the file."""
        entry = self._header.entries[name]
        start = entry.start - entry.start % mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, entry.end - start)
