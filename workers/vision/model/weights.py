"""Logical weights read out of a checkpoint's files, in the order in which they lie on the disk.

    for weight in read_weights(checkpoint.files, checkpoint.config):
        weight.copy_to(parameters[weight.name])

A model of any layout is assembled from them: the destination may be a parameter, or some rows of a fused one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.vision.checkpoint.config import Config
from workers.vision.checkpoint.weight_files import FLOAT_TYPES, ITEM_BYTES, MappedFile, WeightFiles
from workers.vision.checkpoint.weight_map import IGNORED_SUFFIXES, LogicalWeight, Slice, released_tensors

CHUNK_BYTES = 32 << 20  # copied at once, between two releases of the file's pages

Progress = Callable[[int], None]  #: called with the bytes of each released tensor once it is read


@dataclass(frozen=True)
class Weight:
    """A logical weight that lies in a mapped file."""

    name: str
    shape: tuple[int, ...]
    view: Tensor  #: of the whole released tensor, in the type in which it was released; (rows, …)
    rows: Slice
    release: Callable[[], None]  #: takes the view's pages out of the process

    def copy_to(self, target: Tensor) -> None:
        """Copy into `target`, of `shape`, whatever its type and device, by chunks of rows."""
        source = select(self.view, self.rows)
        step = max(1, CHUNK_BYTES // max(1, source[:1].numel() * source.element_size()))
        for start in range(0, len(source), step):
            target[start : start + step].copy_(source[start : start + step])
            self.release()


def read_weights(files: WeightFiles, config: Config, progress: Progress | None = None) -> Iterator[Weight]:
    """Yield every logical weight of the model that `config` promises; the files were checked by `check_weights`."""
    logical = {tensor.key: tensor.weights for tensor in released_tensors(config)}
    for file in files.files:
        mapped = MappedFile(file)
        for key, entry in sorted(file.entries.items(), key=lambda item: item[1].start):
            if key.endswith(IGNORED_SUFFIXES):
                continue
            yield from _weights_of(mapped, key, logical[key])
            mapped.release(key)
            if progress:
                progress(entry.end - entry.start)


def select(tensor: Tensor, rows: Slice) -> Tensor:
    """Return the rows of `tensor` that `rows` means; a view where they lie together, else a copy."""
    if rows.whole:
        return tensor
    grouped = tensor.reshape(rows.groups, rows.blocks, -1, *tensor.shape[1:])
    return grouped[:, rows.start : rows.stop].flatten(0, 2)


def _weights_of(mapped: MappedFile, key: str, logical: tuple[LogicalWeight, ...]) -> Iterator[Weight]:
    entry = mapped.entries[key]
    count = (entry.end - entry.start) // ITEM_BYTES[entry.dtype]
    dtype = getattr(torch, FLOAT_TYPES[entry.dtype])
    view = torch.frombuffer(mapped.buffer, dtype=dtype, count=count, offset=entry.start).reshape(entry.shape)
    for weight in logical:
        yield Weight(weight.name, weight.shape, view, weight.slice, lambda: mapped.release(key))
