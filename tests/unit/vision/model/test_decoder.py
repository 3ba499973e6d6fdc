"""Variants that the weights decide: biases of q, k and v as in Qwen2, norms of q and k and wide heads as in Qwen3."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model.decoder import Decoder
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PackedBatch, Segment

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 120,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False,
}


class WideHeads(DecoderConfig):
    """Heads whose width is not hidden / heads."""

    @property
    def head(self) -> int:
        return 32


def fused(model: Any) -> dict[str, Tensor]:
    """The stock model's weights by the names of ours."""
    found = {
        "decoder.embedding.weight": model.model.embed_tokens.weight,
        "decoder.norm.weight": model.model.norm.weight,
        "decoder.output.weight": model.lm_head.weight,
    }
    for index, layer in enumerate(model.model.layers):
        at, attention, mlp = f"decoder.layers.{index}", layer.self_attn, layer.mlp
        three = attention.q_proj, attention.k_proj, attention.v_proj
        found[f"{at}.attention_norm.weight"] = layer.input_layernorm.weight
        found[f"{at}.attention.qkv.weight"] = torch.cat([linear.weight for linear in three])
        if attention.q_proj.bias is not None:
            found[f"{at}.attention.qkv.bias"] = torch.cat([linear.bias for linear in three])
        if hasattr(attention, "q_norm"):
            found[f"{at}.attention.q_norm.weight"] = attention.q_norm.weight
            found[f"{at}.attention.k_norm.weight"] = attention.k_norm.weight
        found[f"{at}.attention.output.weight"] = attention.o_proj.weight
        found[f"{at}.mlp_norm.weight"] = layer.post_attention_layernorm.weight
        found[f"{at}.mlp.gate_up.weight"] = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        found[f"{at}.mlp.down.weight"] = mlp.down_proj.weight
    return found


def stock(kind: str) -> Any:
    torch.manual_seed(0)
    make: Any = Qwen2ForCausalLM if kind == "qwen2" else Qwen3ForCausalLM
    config: Any = Qwen2Config(**SIZES) if kind == "qwen2" else Qwen3Config(**SIZES, head_dim=32)
    model = make(config).eval()
    for parameter in model.parameters():  # fresh ones have biases of 0 and norms of 1, which would hide a mistake
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
@torch.no_grad()
def test_the_decoder_computes_what_the_stock_model_does(kind: str) -> None:
    model = stock(kind)
    make = DecoderConfig if kind == "qwen2" else WideHeads
    config = make("llama", 64, 2, 4, 2, 96, 120, 1e-6, False, 1e6, 1.0, 128)
    decoder = Decoder(config, fused(model))
    ids, positions = torch.randint(0, 120, (20,)), torch.arange(20)
    pages = KVPages(config, 2, torch.float32, decoder.devices)
    batch = PackedBatch(ids, positions, positions, (Segment(0, 20, 20, (0, 1)),), positions)
    assert torch.allclose(decoder(batch, pages), model(ids.unsqueeze(0)).logits[0], atol=1e-4)
