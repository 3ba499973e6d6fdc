"""Tiles to the numbers that the encoder takes in."""

from functools import cache

import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as the model card's code


def normalise(tiles: Tensor) -> Tensor:
    """(T, side, side, 3) uint8 to (T, 3, side, side) float32, bit for bit ToTensor and Normalize of torchvision.

    On the device of `tiles`: folding the constants or doing it in bf16 would change the last bits.
    """
    mean, std = _statistics(tiles.device)
    return tiles.permute(0, 3, 1, 2).float().div(255).sub_(mean).div_(std)


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation as (3, 1, 1). Uploaded once: an upload can't be part of a CUDA graph."""
    mean, std = (torch.tensor(values).view(3, 1, 1).to(device) for values in (MEAN, STD))
    return mean, std
