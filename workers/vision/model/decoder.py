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
from workers.vision.model.attention import AttendPrompt, AttendRows, attend, attend_padded
from workers.vision.model.fast_path import FastPath
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.linear import Activation, Linear, MakeLinear, PlainLinear
from workers.vision.model.norm import Norm
from workers.vision.model.packed_batch import PackedBatch
from workers.vision.model.rotary import HeadNorms, RotaryTable, Rotate, rotary_table, rotate_and_store


@dataclass(frozen=True)
class DecoderKernels:
    """How the parts of a model are computed, where it is not as torch does."""

    linear: MakeLinear = PlainLinear
    head: MakeLinear = PlainLinear  #: the output layer
    encoder_linear: MakeLinear = PlainLinear
    rotate: Rotate = rotate_and_store
    attend_rows: AttendRows | None = None
    attend_prompt: AttendPrompt | None = None
    #: Takes queries, keys and values (tiles, tokens, heads, head), gives the same.
    attend_tiles: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    paths: tuple[FastPath, ...] = ()  #: that were compared with plain torch on this device


PLAIN_KERNELS = DecoderKernels()


@dataclass(frozen=True)
class DecoderLayer:
    """Weights of one layer, q|k|v in one and gate|up in one."""

    device: torch.device
    norm: Norm
    qkv: Linear
    head_norms: HeadNorms | None
    out: Linear
    mlp_norm: Norm
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
        self._rotate = kernels.rotate
        self._attend_rows, self._attend_prompt = kernels.attend_rows, kernels.attend_prompt
        self.embedding = take("decoder.embedding.weight")
        self.layers = [_layer_weights(index, weights, kernels.linear, config.eps) for index in range(config.layers)]
        self.norm = Norm(take("decoder.norm.weight"), None, config.eps)
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
            hidden = self._layer(index, hidden, batch, pages, rotary)
            self.layer_done()
        if hidden.device.type != "cpu" and batch.wanted is not None:  # else the last layer has left out the other rows
            hidden = hidden[batch.wanted]
        return self.head(hidden, self.norm)

    def _embed(self, batch: PackedBatch) -> Tensor:
        """(N, hidden), image features where they stand in place of ids."""
        hidden = functional.embedding(batch.ids.to(self.embedding.device), self.embedding)
        for row, features in batch.features:
            hidden[row : row + len(features)] = features.to(hidden)
        return hidden

    def _layer(self, index: int, hidden: Tensor, batch: PackedBatch, pages: KVPages, rotary: RotaryTable) -> Tensor:
        layer = self.layers[index]
        qkv = layer.qkv(hidden, layer.norm).view(len(hidden), -1, self.config.head)
        kv = pages.keys[index], pages.values[index], batch.slots
        queries = self._rotate(qkv, rotary, layer.head_norms, self.config.eps, kv)
        last = index == len(self.layers) - 1
        if last and hidden.device.type == "cpu" and batch.wanted is not None:  # where finding rows costs no transfer
            queries, hidden, batch = queries[batch.wanted], hidden[batch.wanted], batch.wanted_rows
        if not len(hidden):
            return hidden
        attended = attend(queries, batch, pages, index, self._attend_rows, attend_prompt=self._attend_prompt)
        hidden = layer.out(attended.flatten(1), residual=hidden)
        return layer.down(layer.gate_up(hidden, layer.mlp_norm), residual=hidden)


def _layer_weights(index: int, weights: dict[str, Tensor], make_linear: MakeLinear, eps: float) -> DecoderLayer:
    at = f"decoder.layers.{index}"

    def linear(name: str, activation: Activation = Activation.NONE) -> Linear:
        weight, bias = weights.pop(f"{at}.{name}.weight"), weights.pop(f"{at}.{name}.bias", None)
        return make_linear(weight, bias, activation=activation)

    q_norm, k_norm = (weights.pop(f"{at}.attention.{name}_norm.weight", None) for name in "qk")
    norm = weights.pop(f"{at}.attention_norm.weight")
    return DecoderLayer(
        device=norm.device,
        norm=Norm(norm, None, eps),
        qkv=linear("attention.qkv"),
        head_norms=None if q_norm is None or k_norm is None else (q_norm, k_norm),
        out=linear("attention.output"),
        mlp_norm=Norm(weights.pop(f"{at}.mlp_norm.weight"), None, eps),
        gate_up=linear("mlp.gate_up", Activation.GATED),
        down=linear("mlp.down"),
    )
