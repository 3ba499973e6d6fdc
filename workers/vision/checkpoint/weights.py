"""Fills the stock model with released weights: checked first, then one tensor at a time.

No more than the model and 32 MiB are in memory at any moment, whatever the size of a shard or of its largest tensor.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import InternVLForConditionalGeneration

from workers.vision.checkpoint.config import Config
from workers.vision.checkpoint.errors import CheckpointError
from workers.vision.checkpoint.files import Files, check, find_weights
from workers.vision.checkpoint.keys import Weight, weights
from workers.vision.checkpoint.native import empty_model
from workers.vision.checkpoint.safetensors import Map

CHUNK = 32 << 20  # bytes copied at once

Device = torch.device | str
Place = Callable[[str], torch.device]  #: the device of a parameter, by its name
Progress = Callable[[int], None]  #: is told the bytes just loaded


def load_model(
    folder: Path,
    config: Config,
    device: Device,
    dtype: torch.dtype,
    *,
    place: Place | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
    progress: Progress | None = None,
) -> InternVLForConditionalGeneration:
    """Load the checkpoint in `folder`. `place` spreads it over devices, `prepare` changes layers before it is filled."""
    files = find_weights(folder)
    promised = list(weights(config))
    check(files, promised, folder)
    model = empty_model(config)
    if prepare:
        prepare(model)
    at = torch.device(device)
    fill(model, files, promised, dtype, place or (lambda _: at), progress)
    _restore_buffers(model, place or (lambda _: at))
    return model


def fill(
    model: nn.Module,
    files: Files,
    promised: list[Weight],
    dtype: torch.dtype,
    place: Place,
    progress: Progress | None,
) -> None:
    """Copy every weight to where it belongs, in the order of the files."""
    by_key = {weight.key: weight for weight in promised}
    for header in files.headers:
        with Map(header) as mapped:
            for key, entry in sorted(header.entries.items(), key=lambda item: item[1].start):
                for target in by_key[key].targets if key in by_key else ():
                    whole = mapped.tensor(key)
                    source = target.take(whole) if target.take else whole
                    copied = _copy(source, place(target.name), dtype, lambda name=key: mapped.forget(name))
                    _assign(model, target.name, copied)
                    del whole, source
                mapped.forget(key)
                if progress:
                    progress(entry.end - entry.start)
    missing = [name for name, tensor in model.named_parameters() if tensor.is_meta]
    if missing:
        raise CheckpointError(f"the key map leaves {missing[0]} empty, and {len(missing) - 1} more")


def _copy(source: Tensor, device: torch.device, dtype: torch.dtype, forget: Callable[[], None]) -> Tensor:
    """Copy by rows, letting go of the file's pages as it goes."""
    copied = torch.empty(source.shape, dtype=dtype, device=device)
    rows = max(1, CHUNK // max(1, source[:1].numel() * source.element_size()))
    for start in range(0, len(source), rows):
        copied[start : start + rows].copy_(source[start : start + rows])
        forget()
    return copied


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    expected = module.get_parameter(leaf)
    if expected.shape != tensor.shape:
        raise CheckpointError(f"the key map gives {name} {list(tensor.shape)}; it takes {list(expected.shape)}")
    if type(expected) is not nn.Parameter:  # a quantised layer packs what it is given in its own parameter class
        setattr(module, leaf, type(expected)(tensor, **getattr(expected, "__dict__", {})))
        return
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))


def _restore_buffers(model: InternVLForConditionalGeneration, place: Place) -> None:
    """RoPE's frequencies are no weights: they are computed, where the decoder begins."""
    decoder = model.model.language_model
    rotary = type(decoder.rotary_emb)(decoder.config)
    decoder.rotary_emb = rotary.to(place("model.language_model.rotary_emb.inv_freq"))


def parameter_count(config: Config) -> int:
    """Parameters of the released files, idle layers included."""
    return sum(torch.Size(weight.shape).numel() for weight in weights(config))


def loaded_bytes(config: Config, dtype: torch.dtype) -> Mapping[str, int]:
    """Bytes that each parameter of the loaded model takes."""
    return {name: parameter.numel() * dtype.itemsize for name, parameter in empty_model(config).named_parameters()}
