"""Rotary position embedding (RoFormer, arXiv 2104.09864) in Llama's half rotation, its tables computed once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model.norm import rms_norm

HeadNorms = tuple[Tensor, Tensor]  #: weights of the norms of each head of the queries and of the keys, (head,)
KV = tuple[
    Tensor, Tensor, Tensor
]  #: pools of keys and values of a layer, (slots, kv_heads, head), and the rows' slots (N,)


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of every position that is served: (positions, head / 2), in the model's dtype.

    InternLM2's dynamic NTK scaling changes its base only past `max_position_embeddings` (modeling_internlm2.py,
    `InternLM2DynamicNTKScalingRotaryEmbedding`), which is where the context ends, so one table is exact throughout.
    """

    cos: Tensor
    sin: Tensor

    def at(self, positions: Tensor) -> "RotaryTable":
        """The rows of `positions` (N,), shaped (N, 1, head / 2) to turn (N, heads, head)."""
        return RotaryTable(self.cos[positions].unsqueeze(1), self.sin[positions].unsqueeze(1))

    def turn(self, heads: Tensor) -> Tensor:
        """Rotate (N, heads, head): the first half of each head is the real part, the second the imaginary."""
        real, imaginary = heads.chunk(2, dim=-1)
        return torch.cat((real * self.cos - imaginary * self.sin, imaginary * self.cos + real * self.sin), dim=-1)


#: Takes (N, heads + 2 kv_heads, head), its rows of the table, norms, their epsilon and where to store keys and values;
#: gives the queries (N, heads, head). It may overwrite what it takes.
Rotate = Callable[[Tensor, RotaryTable, HeadNorms | None, float, KV], Tensor]


def rotate_and_store(qkv: Tensor, rotary: RotaryTable, norms: HeadNorms | None, eps: float, kv: KV) -> Tensor:
    """`Rotate` in plain torch."""
    keys, values, slots = kv
    kv_heads = keys.shape[1]
    heads = qkv.shape[1] - 2 * kv_heads
    turned = qkv[:, :-kv_heads]
    if norms:
        turned = torch.cat((rms_norm(turned[:, :heads], norms[0], eps), rms_norm(turned[:, heads:], norms[1], eps)), 1)
    turned = rotary.turn(turned)
    keys.index_copy_(0, slots, turned[:, heads:])
    values.index_copy_(0, slots, qkv[:, -kv_heads:])
    return turned[:, :heads]


def rotary_table(config: DecoderConfig, dtype: torch.dtype, device: torch.device) -> RotaryTable:
    """Compute the table in float32, as the original does, and round it to `dtype`."""
    exponents = torch.arange(0, config.head, 2, dtype=torch.int64).float() / config.head
    frequencies = 1.0 / (config.rope_theta**exponents) / config.rope_factor
    angles = torch.arange(config.positions, dtype=torch.float32).unsqueeze(1) * frequencies
    return RotaryTable(angles.cos().to(device, dtype), angles.sin().to(device, dtype))
