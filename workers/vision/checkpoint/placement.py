"""Where a model goes: one device if it fits, several if there are, or a refusal with the numbers.

    cuda:0  vision tower, projector, embeddings, layers 0..k     cuda:1  layers k+1..n, norm, output

Layers stay in order, so a step crosses from device to device once each. Needs no accelerate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workers.vision.checkpoint.config import Config
from workers.vision.checkpoint.errors import CheckpointError
from workers.vision.checkpoint.native import StockModel

HEADROOM = 8  # an eighth of every device is left for the cache and working memory
LAYERS = "model.language_model.layers."
TAIL = ("model.language_model.norm.", "lm_head.")


@dataclass(frozen=True)
class Room:
    """A device and the bytes that are free on it."""

    device: torch.device
    free: int


@dataclass(frozen=True)
class Placement:
    """Which device holds each block: 0 is everything before the decoder's layers, the last what follows them."""

    blocks: tuple[torch.device, ...]

    @property
    def split(self) -> bool:
        """More than one device is used."""
        return len(set(self.blocks)) > 1

    def __call__(self, name: str) -> torch.device:
        """Device of the parameter `name`."""
        return self.blocks[_block(name, len(self.blocks) - 2)]


def plan(sizes: Sequence[int], rooms: Sequence[Room]) -> Placement:
    """Put blocks of `sizes` bytes onto the devices in order. Raises `CheckpointError` with the numbers."""
    left = [room.free - room.free // HEADROOM for room in rooms]
    at, blocks = 0, []
    for size in sizes:
        while at < len(rooms) and left[at] < size:
            at += 1
        if at == len(rooms):
            raise CheckpointError(
                f"the model takes {_gib(sum(sizes))}; free is "
                + ", ".join(f"{_gib(room.free)} on {room.device}" for room in rooms)
                + ", an eighth of it kept for the cache; use more or larger devices, or int8 or int4"
            )
        left[at] -= size
        blocks.append(rooms[at].device)
    return Placement(tuple(blocks))


def block_sizes(config: Config, parameters: dict[str, int]) -> list[int]:
    """Bytes of each block, from bytes of each parameter."""
    sizes = [0] * (config.decoder.layers + 2)
    for name, size in parameters.items():
        sizes[_block(name, config.decoder.layers)] += size
    return sizes


def cuda_rooms(device: str) -> list[Room]:
    """The one device that was named, or all of them, the first first."""
    chosen = torch.device(device)
    indexes = range(torch.cuda.device_count()) if chosen.index is None else [chosen.index]
    return [Room(torch.device("cuda", index), torch.cuda.mem_get_info(index)[0]) for index in indexes]


def connect(model: StockModel, placement: Placement) -> None:
    """Carry what goes from block to block over to the device that holds the next one."""
    decoder = model.model.language_model
    followers = [*decoder.layers, decoder.norm]
    for module, device in zip([*followers, model.lm_head], [*placement.blocks[1:], placement.blocks[-1]], strict=True):
        module.register_forward_pre_hook(_carrier(device), with_kwargs=True)


def _carrier(device: torch.device) -> Any:
    def carry(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        return _moved(args, device), _moved(kwargs, device)

    return carry


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    if isinstance(value, dict):
        return {name: _moved(item, device) for name, item in value.items()}
    return value


def _block(name: str, layers: int) -> int:
    if name.startswith(LAYERS):
        return 1 + int(name.removeprefix(LAYERS).split(".", 1)[0])
    return layers + 1 if name.startswith(TAIL) else 0


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
