"""Where each logical weight goes among the fused ones."""

import torch

from workers.vision.model.fused import fused_parts
from workers.vision.model.norm import rms_norm

ROWS = {
    "decoder.layers.0.attention.q.weight": 8,
    "decoder.layers.0.attention.k.weight": 4,
    "decoder.layers.0.attention.v.weight": 4,
    "decoder.layers.0.mlp.gate.weight": 16,
    "decoder.layers.0.mlp.up.weight": 16,
    "decoder.layers.0.mlp.down.weight": 8,
    "vision.layers.0.mlp.up.weight": 12,
}


def test_q_k_and_v_lie_below_one_another() -> None:
    parts = fused_parts(ROWS)
    found = [parts[f"decoder.layers.0.attention.{name}.weight"] for name in "qkv"]
    assert {part.name for part in found} == {"decoder.layers.0.attention.qkv.weight"}
    assert [part.rows for part in found] == [slice(0, 8), slice(8, 12), slice(12, 16)]
    assert {part.total for part in found} == {16}


def test_gate_and_up_are_one_but_an_up_without_gate_stays_itself() -> None:
    parts = fused_parts(ROWS)
    assert parts["decoder.layers.0.mlp.up.weight"].rows == slice(16, 32)
    assert parts["vision.layers.0.mlp.up.weight"].name == "vision.layers.0.mlp.up.weight"
    assert parts["decoder.layers.0.mlp.down.weight"].name == "decoder.layers.0.mlp.down.weight"


def test_rms_norm_scales_after_rounding_as_the_original() -> None:
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    weight = torch.full((64,), 1.7, dtype=torch.bfloat16)
    wide = x.float()
    rounded = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)).bfloat16()
    assert torch.equal(rms_norm(x, weight, 1e-5), weight * rounded)
