"""The decoder of the whole family (InternLM2, Llama, Qwen2, Qwen3): packed rows in, logits of the wanted rows out.

    embed ─> [ norm ─ q|k|v ─ rotary ─ attend ─ out ─ + ─ norm ─ gate|up ─ silu, * ─ down ─ + ] x layers ─> norm ─> head

Which weights a checkpoint has decides the variant: biases of q, k and v (Qwen2), norms of q and k per head (Qwen3).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model.attention import AttendRows, attend, attend_padded
from workers.vision.model.fast_path import FastPath
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.linear import Linear, MakeLinear, PlainLinear
from workers.vision.model.norm import rms_norm
from workers.vision.model.packed_batch import PackedBatch
from workers.vision.model.rotary import RotaryTable, rotary_table


@dataclass(frozen=True)
class DecoderKernels:
    """How the parts of a decoder are computed, where it is not as torch does."""

    linear: MakeLinear = PlainLinear
    head: MakeLinear = PlainLinear  #: the output layer, which is never quantised
    attend_rows: AttendRows | None = None
    paths: tuple[FastPath, ...] = ()  #: that were compared with plain torch on this device


PLAIN_KERNELS = DecoderKernels()


@dataclass(frozen=True)
class DecoderLayer:
    """Weights of one layer, q|k|v in one and gate|up in one."""

    device: torch.device
    norm: Tensor
    qkv: Linear
    q_norm: Tensor | None  #: (head,)
    k_norm: Tensor | None
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Decoder:
    """See the module. Holds no state between calls: keys and values live in `KVPages`."""

    def __init__(
        self, config: DecoderConfig, weights: dict[str, Tensor], kernels: DecoderKernels = PLAIN_KERNELS
    ) -> None:
        """Take the decoder's entries out of `weights` (names of `fused.py`)."""
        take = weights.pop
        self.config = config
        self.layer_done: Callable[[], None] = lambda: None  # called after each layer
        self.paths = kernels.paths
        self._attend_rows = kernels.attend_rows
        self.embedding = take("decoder.embedding.weight")
        self.layers = [_layer(index, weights, kernels.linear) for index in range(config.layers)]
        self.norm = take("decoder.norm.weight")
        self.head = kernels.head(take("decoder.output.weight"), None)
        self._tables = {
            device: rotary_table(config, self.embedding.dtype, device) for device in dict.fromkeys(self.devices)
        }

    @property
    def devices(self) -> list[torch.device]:
        """The device of each layer."""
        return [layer.device for layer in self.layers]

    @property
    def pads_answers(self) -> bool:
        """Whether running answers attend to as many positions as the longest of them."""
        plain = self._attend_rows is None and any(device.type != "cpu" for device in self.devices)
        return plain or self._attend_rows is attend_padded

    def __call__(self, batch: PackedBatch, pages: KVPages) -> Tensor:
        """Compute all rows, store their keys and values, return (M, vocab) logits of the wanted rows."""
        hidden = self._embed(batch)
        rotary: RotaryTable | None = None
        for index, layer in enumerate(self.layers):
            if rotary is None or hidden.device != layer.device:
                hidden, batch = hidden.to(layer.device), batch.to(layer.device)
                rotary = self._tables[layer.device].at(batch.positions)
            hidden = hidden + self._attention(
                index, rms_norm(hidden, layer.norm, self.config.eps), batch, pages, rotary
            )
            hidden = hidden + _mlp(layer, rms_norm(hidden, layer.mlp_norm, self.config.eps))
            self.layer_done()
        wanted = hidden if batch.wanted is None else hidden[batch.wanted]
        return self.head(rms_norm(wanted, self.norm, self.config.eps))

    def _embed(self, batch: PackedBatch) -> Tensor:
        """(N, hidden), image features where they stand in place of ids."""
        hidden = functional.embedding(batch.ids.to(self.embedding.device), self.embedding)
        for row, features in batch.features:
            hidden[row : row + len(features)] = features.to(hidden)
        return hidden

    def _attention(self, index: int, x: Tensor, batch: PackedBatch, pages: KVPages, rotary: RotaryTable) -> Tensor:
        layer, config = self.layers[index], self.config
        heads = layer.qkv(x).view(len(x), config.heads + 2 * config.kv_heads, config.head)
        turned, values = heads[:, : -config.kv_heads], heads[:, -config.kv_heads :]
        if layer.q_norm is not None and layer.k_norm is not None:
            queries = rms_norm(turned[:, : config.heads], layer.q_norm, config.eps)
            keys = rms_norm(turned[:, config.heads :], layer.k_norm, config.eps)
            turned = torch.cat((queries, keys), dim=1)
        turned = rotary.turn(turned)
        pages.write(index, batch.slots, turned[:, config.heads :], values)
        return layer.out(attend(turned[:, : config.heads], batch, pages, index, self._attend_rows).flatten(1))


def _layer(index: int, weights: dict[str, Tensor], make_linear: MakeLinear) -> DecoderLayer:
    at = f"decoder.layers.{index}"

    def linear(name: str) -> Linear:
        return make_linear(weights.pop(f"{at}.{name}.weight"), weights.pop(f"{at}.{name}.bias", None))

    norm = weights.pop(f"{at}.attention_norm.weight")
    return DecoderLayer(
        device=norm.device,
        norm=norm,
        qkv=linear("attention.qkv"),
        q_norm=weights.pop(f"{at}.attention.q_norm.weight", None),
        k_norm=weights.pop(f"{at}.attention.k_norm.weight", None),
        out=linear("attention.output"),
        mlp_norm=weights.pop(f"{at}.mlp_norm.weight"),
        gate_up=linear("mlp.gate_up"),
        down=linear("mlp.down"),
    )


def _mlp(layer: DecoderLayer, x: Tensor) -> Tensor:
    gate, up = layer.gate_up(x).chunk(2, dim=-1)
    return layer.down(functional.silu(gate) * up)
