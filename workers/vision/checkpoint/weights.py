"""Fills the stock model with released weights: checked first, then one tensor at a time.

No more than the model and 32 MiB are in memory at any moment, whatever the size of a shard or of its largest tensor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from workers.vision.checkpoint.config import Config, Quantised
from workers.vision.checkpoint.errors import CheckpointError
from workers.vision.checkpoint.files import Files, check, find_weights
from workers.vision.checkpoint.keys import IGNORED, weights
from workers.vision.checkpoint.native import StockModel, empty_model
from workers.vision.checkpoint.placement import LAYERS
from workers.vision.checkpoint.quantise import BYTES, Quantiser
from workers.vision.checkpoint.safetensors import Map

CHUNK = 32 << 20  # bytes copied at once

Place = Callable[[str], torch.device]  #: the device of a parameter, by its name
Progress = Callable[[int], None]  #: is told the bytes just loaded


def load_model(
    folder: Path,
    config: Config,
    dtype: torch.dtype,
    place: Place,
    *,
    quantiser: Quantiser | None = None,
    progress: Progress | None = None,
) -> StockModel:
    """Load the checkpoint in `folder`, each parameter to the device that `place` names. Raises `CheckpointError`."""
    files = find_weights(folder)
    promised = list(weights(config))
    check(files, promised, folder)
    model = empty_model(config)
    if quantiser:
        quantiser.prepare(model)
    by_key = {weight.key: weight for weight in promised}
    for key, tensor, size in _stream(files):
        for target in by_key[key].targets if key in by_key else ():
            source = target.take(tensor.view) if target.take else tensor.view
            _assign(model, target.name, _copy(source, place(target.name), dtype, tensor.forget), quantiser)
        tensor.forget()
        if progress:
            progress(size)
    _check_filled(model)
    # RoPE's frequencies are no weights: they are computed, where the decoder begins.
    decoder = model.model.language_model
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config).to(place("model.language_model.rotary_emb"))
    return model


@dataclass(frozen=True)
class Mapped:
    """A tensor of a mapped file."""

    view: Tensor
    forget: Callable[[], None]


def _stream(files: Files) -> Iterator[tuple[str, Mapped, int]]:
    """Yield name, tensor and bytes of every weight in the order in which they lie on the disk."""
    for header in files.headers:
        mapped = Map(header)
        for key, entry in sorted(header.entries.items(), key=lambda item: item[1].start):
            if not key.endswith(IGNORED):
                yield key, Mapped(mapped.tensor(key), partial(mapped.forget, key)), entry.end - entry.start


def _copy(source: Tensor, device: torch.device, dtype: torch.dtype, forget: Callable[[], None]) -> Tensor:
    """Copy by rows, letting go of the file's pages as it goes."""
    copied = torch.empty(source.shape, dtype=dtype, device=device)
    rows = max(1, CHUNK // max(1, source[:1].numel() * source.element_size()))
    for start in range(0, len(source), rows):
        copied[start : start + rows].copy_(source[start : start + rows])
        forget()
    return copied


def _assign(model: nn.Module, name: str, tensor: Tensor, quantiser: Quantiser | None) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    expected = module.get_parameter(leaf)
    if expected.shape != tensor.shape:
        raise CheckpointError(f"the key map gives {name} {list(tensor.shape)}; it takes {list(expected.shape)}")
    packed = quantiser.pack(expected, tensor) if quantiser else nn.Parameter(tensor, requires_grad=False)
    setattr(module, leaf, packed)


def _check_filled(model: nn.Module) -> None:
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if empty:
        raise CheckpointError(f"the key map leaves {empty[0]} empty, and {len(empty) - 1} more")


def loaded_bytes(config: Config, dtype: torch.dtype, quantised: Quantised | None = None) -> dict[str, int]:
    """Bytes that each parameter of the loaded model takes."""
    layer = BYTES[quantised] if quantised else dtype.itemsize
    return {
        name: int(parameter.numel() * (layer if name.startswith(LAYERS) else dtype.itemsize))
        for name, parameter in empty_model(config).named_parameters()
    }
