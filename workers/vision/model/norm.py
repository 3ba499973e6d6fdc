"""RMSNorm (arXiv 1910.07467) as Llama and InternViT-6B compute it, and LayerNorm."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Normalise = Callable[[Tensor, Tensor, float], Tensor]  #: of (..., width), its weight (width,) and epsilon


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last dimension in float32, round to the dtype of `x`, then scale: this order is the original's."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * (wide * scale).to(x.dtype)


def joined_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same in one operation, which a GPU computes by one kernel and rounds once, at its end."""
    return functional.rms_norm(x, weight.shape, weight, eps)


class Norm(NamedTuple):
    """LayerNorm where there is a bias, else RMSNorm."""

    weight: Tensor
    bias: Tensor | None
    eps: float

    def __call__(self, x: Tensor, rms: Normalise = rms_norm) -> Tensor:
        """Normalise the last dimension."""
        if self.bias is None:
            return rms(x, self.weight, self.eps)
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
