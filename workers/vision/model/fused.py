"""Logical weights to fused ones: q|k|v below one another, gate|up below one another, all others by their own names.

    decoder.layers.3.attention.{q,k,v}.weight  ->  decoder.layers.3.attention.qkv.weight
    decoder.layers.3.mlp.{gate,up}.weight      ->  decoder.layers.3.mlp.gate_up.weight

Each is allocated when its first part comes, so no more than the model and a chunk of a file are in memory at once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from workers.vision.checkpoint.config import Config
from workers.vision.checkpoint.weight_map import weight_shapes
from workers.vision.model.placement import weight_dtype
from workers.vision.model.weights import Weight

#: Parts that share a fused weight, in their order in it. The encoder's `up` has no gate and stays itself.
PARTS = (("attention", "qkv", ("q", "k", "v")), ("mlp", "gate_up", ("gate", "up")))


@dataclass(frozen=True)
class Part:
    """Where a logical weight goes: these rows of the fused weight `name`."""

    name: str
    rows: slice
    total: int  #: rows of the fused weight


def fuse(
    weights: Iterable[Weight], config: Config, dtype: torch.dtype, place: Callable[[str], torch.device]
) -> dict[str, Tensor]:
    """Copy `weights` into fused ones, each on the device that `place` names for a logical weight of it."""
    parts = fused_parts({name: shape[0] for name, shape in weight_shapes(config).items()})
    fused: dict[str, Tensor] = {}
    for weight in weights:
        part = parts[weight.name]
        if part.name not in fused:
            shape = (part.total, *weight.shape[1:])
            fused[part.name] = torch.empty(shape, dtype=weight_dtype(weight.name, dtype), device=place(weight.name))
        weight.copy_to(fused[part.name][part.rows])
    return fused


def fused_parts(rows: dict[str, int]) -> dict[str, Part]:
    """Where each logical weight goes, from the rows of all of them."""
    found = {name: Part(name, slice(0, count), count) for name, count in rows.items()}
    for name in rows:
        for group, fused, members in PARTS:
            head, mark, tail = name.partition(f".{group}.{members[0]}.")
            names = [f"{head}.{group}.{member}.{tail}" for member in members]
            if mark and all(member in rows for member in names):
                ends = list(accumulate(rows[member] for member in names))
                for member, end in zip(names, ends, strict=True):
                    whole = f"{head}.{group}.{fused}.{tail}"
                    found[member] = Part(whole, slice(end - rows[member], end), ends[-1])
    return found
