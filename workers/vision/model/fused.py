"""Released weights to fused ones: q|k|v in one, gate|up in one, straight from the mapped files into their place.

No more than the model and 32 MiB are in memory at any moment: each fused weight is allocated when its first part comes.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from workers.vision.checkpoint.config import Config
from workers.vision.checkpoint.files import check, find_weights
from workers.vision.checkpoint.keys import Weight, weights
from workers.vision.checkpoint.weights import CHUNK, Place, Progress, _stream

#: Parts that share a fused weight, in their order in it.
PARTS = {
    "q_proj": ("qkv", 0),
    "k_proj": ("qkv", 1),
    "v_proj": ("qkv", 2),
    "gate_proj": ("gate_up", 0),
    "up_proj": ("gate_up", 1),
}
NAMES = (
    (r"model\.language_model\.embed_tokens", "embed"),
    (r"model\.language_model\.norm", "norm"),
    (r"lm_head", "head"),
    (r"model\.language_model\.layers\.(\d+)\.input_layernorm", r"layers.\1.norm"),
    (r"model\.language_model\.layers\.(\d+)\.post_attention_layernorm", r"layers.\1.mlp_norm"),
    (r"model\.language_model\.layers\.(\d+)\.self_attn\.o_proj", r"layers.\1.out"),
    (r"model\.language_model\.layers\.(\d+)\.mlp\.down_proj", r"layers.\1.down"),
    (r"model\.language_model\.layers\.(\d+)\.(?:self_attn|mlp)\.", r"layers.\1."),
    (r"model\.vision_tower\.embeddings\.cls_token", "vision.class_token"),
    (r"model\.vision_tower\.embeddings\.position_embeddings", "vision.positions"),
    (r"model\.vision_tower\.embeddings\.patch_embeddings\.projection", "vision.patch"),
    (r"model\.vision_tower\.encoder\.layer\.(\d+)\.attention\.projection_layer", r"vision.layers.\1.out"),
    (r"model\.vision_tower\.encoder\.layer\.(\d+)\.layernorm_before", r"vision.layers.\1.norm"),
    (r"model\.vision_tower\.encoder\.layer\.(\d+)\.layernorm_after", r"vision.layers.\1.mlp_norm"),
    (r"model\.vision_tower\.encoder\.layer\.(\d+)\.lambda_1", r"vision.layers.\1.scale"),
    (r"model\.vision_tower\.encoder\.layer\.(\d+)\.lambda_2", r"vision.layers.\1.mlp_scale"),
    (r"model\.vision_tower\.encoder\.layer\.(\d+)\.(?:attention|mlp)\.", r"vision.layers.\1."),
    (r"model\.multi_modal_projector\.layer_norm", "projector.norm"),
    (r"model\.multi_modal_projector\.linear_1", "projector.fc1"),
    (r"model\.multi_modal_projector\.linear_2", "projector.fc2"),
)


@dataclass(frozen=True)
class Part:
    """Where a released weight, or a cut of it, goes: these rows of the fused weight `name`."""

    name: str
    rows: slice
    total: int  #: rows of the fused weight


def load_fused(
    folder: Path, config: Config, dtype: torch.dtype, place: Place, progress: Progress | None = None
) -> dict[str, Tensor]:
    """Read the checkpoint in `folder` into fused weights, each on the device that `place` names for its first part.

    Raises `CheckpointError` before a byte is read if the files do not hold what the config promises.
    """
    files = find_weights(folder)
    promised = {weight.key: weight for weight in weights(config)}
    check(files, promised.values(), folder)
    parts = fused_parts(list(promised.values()))
    fused: dict[str, Tensor] = {}
    for key, tensor, size in _stream(files):
        for target in promised[key].targets if key in promised else ():
            source = target.take(tensor.view) if target.take else tensor.view
            part = parts[target.name]
            if part.name not in fused:
                shape = (part.total, *source.shape[1:])
                fused[part.name] = torch.empty(shape, dtype=dtype, device=place(target.name))
            _copy(source, fused[part.name][part.rows], tensor.forget)
        tensor.forget()
        if progress:
            progress(size)
    return fused


def fused_parts(promised: list[Weight]) -> dict[str, Part]:
    """Where each target of the promised weights goes, by the target's name."""
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for weight in promised:
        for target in weight.targets:
            shape = torch.empty(weight.shape, device="meta")
            rows = len(target.take(shape) if target.take else shape)
            name, order = fused_name(target.name)
            found.setdefault(name, {})[order] = (target.name, rows)
    parts = {}
    for name, by_order in found.items():
        ordered = [by_order[order] for order in sorted(by_order)]
        ends = list(accumulate(rows for _, rows in ordered))
        for (target_name, rows), end in zip(ordered, ends, strict=True):
            parts[target_name] = Part(name, slice(end - rows, end), ends[-1])
    return parts


def fused_name(name: str) -> tuple[str, int]:
    """A stock name's fused weight, and the place among the parts of it."""
    for pattern, replacement in NAMES:
        renamed, hits = re.subn(f"^{pattern}", replacement, name)
        if hits:
            owner, _, leaf = renamed.rpartition(".")
            head, _, last = owner.rpartition(".")
            fused, order = PARTS.get(last, (last, 0))
            return ".".join(filter(None, (head, fused, leaf))), order
    raise KeyError(name)


def _copy(source: Tensor, target: Tensor, forget: Callable[[], None]) -> None:
    """Copy by rows, letting go of the file's pages as it goes."""
    rows = max(1, CHUNK // max(1, source[:1].numel() * source.element_size()))
    for start in range(0, len(source), rows):
        target[start : start + rows].copy_(source[start : start + rows])
        forget()
