"""Which device holds which part of a model: one device if it fits, several if there are, or a refusal with the numbers.

    cuda:0  vision tower, projector, embeddings, layers 0..k     cuda:1  layers k+1..n, norm, output

Parts are named by their logical weights (`checkpoint.weight_map`), so a placement holds for every way of assembling
them. Layers stay in order, so a step crosses from device to device once each. Needs no accelerate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from workers.vision.checkpoint.config import Config, Quantised
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.checkpoint.weight_map import weight_shapes
from workers.vision.model.quantise import BYTES_PER_WEIGHT

RESERVE_DIVISOR = 8  # an eighth of every device is left for the cache and working memory
LAYER_PREFIX = "decoder.layers."
TAIL_PREFIXES = ("decoder.norm.", "decoder.output.")


@dataclass(frozen=True)
class DeviceBudget:
    """A device and the bytes that are free on it."""

    device: torch.device
    free: int


@dataclass(frozen=True)
class Placement:
    """The device of each block: 0 is everything before the decoder's layers, the last what follows them."""

    blocks: tuple[torch.device, ...]

    @property
    def split(self) -> bool:
        """Whether more than one device is used."""
        return len(set(self.blocks)) > 1

    def __call__(self, name: str) -> torch.device:
        """Return the device of the logical weight `name`."""
        return self.blocks[_block(name, len(self.blocks) - 2)]


def on_one_device(config: Config, device: torch.device) -> Placement:
    """Return the placement that puts everything on `device`."""
    return Placement((device,) * (config.decoder.layers + 2))


def plan(sizes: Sequence[int], budgets: Sequence[DeviceBudget]) -> Placement:
    """Put blocks of `sizes` bytes onto the devices in order. Raises `CheckpointError` with the numbers."""
    left = [budget.free - budget.free // RESERVE_DIVISOR for budget in budgets]
    at, blocks = 0, []
    for size in sizes:
        while at < len(budgets) and left[at] < size:
            at += 1
        if at == len(budgets):
            raise CheckpointError(
                f"the model takes {_gib(sum(sizes))}; free is "
                + ", ".join(f"{_gib(budget.free)} on {budget.device}" for budget in budgets)
                + ", an eighth of it kept for the cache; use more or larger devices, or int8 or int4"
            )
        left[at] -= size
        blocks.append(budgets[at].device)
    return Placement(tuple(blocks))


def weight_bytes(config: Config, dtype: torch.dtype, quantised: Quantised | None = None) -> dict[str, int]:
    """Return the bytes that each logical weight takes once it is loaded."""
    layer = BYTES_PER_WEIGHT[quantised] if quantised else dtype.itemsize
    return {
        name: int(prod(shape) * (layer if name.startswith(LAYER_PREFIX) else weight_dtype(name, dtype).itemsize))
        for name, shape in weight_shapes(config).items()
    }


def weight_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the number type of the logical weight `name` in a model of `dtype`.

    Tower and projector of a float16 model are float32, whose range their activations were trained for.
    """
    return torch.float32 if dtype is torch.float16 and not name.startswith("decoder.") else dtype


def block_sizes(config: Config, weights: dict[str, int]) -> list[int]:
    """Return the bytes of each block, from the bytes of each logical weight."""
    sizes = [0] * (config.decoder.layers + 2)
    for name, size in weights.items():
        sizes[_block(name, config.decoder.layers)] += size
    return sizes


def cuda_budgets(device: str) -> list[DeviceBudget]:
    """Return the one device that was named, or all of them, the first first."""
    chosen = torch.device(device)
    indexes = range(torch.cuda.device_count()) if chosen.index is None else [chosen.index]
    return [DeviceBudget(torch.device("cuda", index), torch.cuda.mem_get_info(index)[0]) for index in indexes]


def connect(model: Any, placement: Placement) -> None:
    """Move what goes from block to block of the stock model to the device that holds the next one."""
    decoder = model.model.language_model
    followers = [*decoder.layers, decoder.norm]
    for module, device in zip([*followers, model.lm_head], [*placement.blocks[1:], placement.blocks[-1]], strict=True):
        module.register_forward_pre_hook(_mover(device), with_kwargs=True)


def _mover(device: torch.device) -> Any:
    def move(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _moved(args, device), _moved(kwargs, device)

    return move


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, dict):
        return {name: _moved(item, device) for name, item in value.items()}
    return value


def _block(name: str, layers: int) -> int:
    if name.startswith(LAYER_PREFIX):
        return 1 + int(name.removeprefix(LAYER_PREFIX).split(".", 1)[0])
    return layers + 1 if name.startswith(TAIL_PREFIXES) else 0


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
