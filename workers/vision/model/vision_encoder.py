"""InternViT with its projector: uint8 tiles in, the embeddings that stand for them in the prompt out.

    tiles ─ normalise ─ patches, class token, positions ─ [ norm ─ attention ─ + ─ norm ─ MLP ─ + ] x layers
          ─ without class token ─ pixel shuffle ─ norm ─ linear ─ GELU ─ linear

One class for both towers: InternViT-300M (LayerNorm) and InternViT-6B (RMSNorm, q/k norm over the full width).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.checkpoint.config import Config, VisionConfig
from workers.vision.model.cpu_library import HEAD_MULTIPLE
from workers.vision.model.linear import Activation, Linear, MakeLinear
from workers.vision.model.norm import Norm
from workers.vision.model.pixels import normalise

#: Takes queries, keys and values, each (tiles, tokens, heads, head), and gives the same.
AttendTiles = Callable[[Tensor, Tensor, Tensor], Tensor]

PROJECTOR_EPS = 1e-5  # nn.LayerNorm's default, which mlp1 is built with


@dataclass(frozen=True)
class EncoderLayer:
    """Weights of one layer, q|k|v in one."""

    norm: Norm
    qkv: Linear
    q_norm: Norm | None  #: over all heads together
    k_norm: Norm | None
    out: Linear
    mlp_norm: Norm
    fc1: Linear
    fc2: Linear


class VisionEncoder:
    """See the module."""

    def __init__(
        self,
        config: Config,
        weights: dict[str, Tensor],
        make_linear: MakeLinear,
        attend_tiles: AttendTiles | None = None,
    ) -> None:
        """Take the encoder's and the projector's entries out of `weights` (names of `fused.py`)."""
        take = weights.pop
        self._config, self._attend_tiles = config, attend_tiles
        self.side = config.vision.image  #: of a tile, pixels
        self.layer_done: Callable[[], None] = lambda: None  # called after each layer
        self._class_token = take("vision.embeddings.class_token")
        self._positions = take("vision.embeddings.position")
        self._patch = take("vision.embeddings.patch.weight"), take("vision.embeddings.patch.bias")
        self._layers = [_layer(config.vision, index, weights, make_linear) for index in range(config.used_layers)]
        self._projector_norm = Norm(take("projector.norm.weight"), take("projector.norm.bias"), PROJECTOR_EPS)
        self._projector = [
            make_linear(take(f"projector.{name}.weight"), take(f"projector.{name}.bias"), activation=activation)
            for name, activation in (("linear_1", Activation.GELU), ("linear_2", Activation.NONE))
        ]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._class_token.device

    def encode(self, tiles: Tensor) -> Tensor:
        """(T, side, side, 3) uint8 to (T, tokens of a tile, hidden).

        A CPU takes them one by one, because what lies between the layers of one tile fits its caches.
        """
        if self.device.type == "cpu":
            return torch.cat([self.features(normalise(tiles[at : at + 1])) for at in range(len(tiles))])
        return self.features(normalise(tiles.to(self.device, non_blocking=True)))

    def features(self, pixels: Tensor) -> Tensor:
        """(T, 3, side, side) normalised pixels to (T, tokens of a tile, hidden)."""
        hidden = self._embed(pixels)
        for layer in self._layers:
            hidden = layer.out(self._attention(layer, hidden), residual=hidden)
            hidden = layer.fc2(layer.fc1(hidden, layer.mlp_norm), residual=hidden)
            self.layer_done()
        first, second = self._projector
        return second(first(self._shuffle(hidden[:, 1:]), self._projector_norm))

    def _embed(self, pixels: Tensor) -> Tensor:
        weight, bias = self._patch
        patches = functional.conv2d(pixels.to(weight), weight, bias, stride=self._config.vision.patch)
        tokens = patches.flatten(2).transpose(1, 2)
        return torch.cat((self._class_token.expand(len(tokens), -1, -1), tokens), dim=1) + self._positions

    def _attention(self, layer: EncoderLayer, hidden: Tensor) -> Tensor:
        queries, keys, values = layer.qkv(hidden, layer.norm).chunk(3, dim=-1)
        if layer.q_norm and layer.k_norm:
            queries, keys = layer.q_norm(queries), layer.k_norm(keys)
        shape = (*hidden.shape[:-1], self._config.vision.heads, -1)
        queries, keys, values = (part.view(shape) for part in (queries, keys, values))
        fits = queries.shape[-1] % HEAD_MULTIPLE == 0 and keys.stride(1) == values.stride(1)
        attend = self._attend_tiles if self._attend_tiles and fits else attend_tiles
        return attend(queries, keys, values).flatten(2)

    def _shuffle(self, patches: Tensor) -> Tensor:
        """(T, patches, C) to (T, patches / 4, 4C): each token is four neighbours, (row, column) parity outermost.

        ps_version v1 (V1.1, V1.2) leaves the grid of tokens column by column; v2 writes it row by row.
        """
        side = self._config.token_grid
        grid = patches.view(len(patches), side, 2, side, 2, -1)  # (T, row, parity, column, parity, C)
        order = (0, 3, 1, 2, 4, 5) if self._config.transposed else (0, 1, 3, 2, 4, 5)
        return grid.permute(*order).reshape(len(patches), side * side, -1)


def attend_tiles(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`AttendTiles` in plain torch."""
    queries, keys, values = (part.transpose(-3, -2) for part in (queries, keys, values))
    return functional.scaled_dot_product_attention(queries, keys, values).transpose(-3, -2)


def _layer(config: VisionConfig, index: int, weights: dict[str, Tensor], make_linear: MakeLinear) -> EncoderLayer:
    at = f"vision.layers.{index}"

    def linear(name: str, activation: Activation = Activation.NONE, scale: Tensor | None = None) -> Linear:
        weight, bias = weights.pop(f"{at}.{name}.weight"), weights.pop(f"{at}.{name}.bias", None)
        return make_linear(weight, bias, activation=activation, scale=scale)

    def norm(name: str) -> Norm:
        return Norm(weights.pop(f"{at}.{name}.weight"), weights.pop(f"{at}.{name}.bias", None), config.eps)

    return EncoderLayer(
        norm=norm("attention_norm"),
        qkv=linear("attention.qkv"),
        q_norm=norm("attention.q_norm") if config.qk_norm else None,
        k_norm=norm("attention.k_norm") if config.qk_norm else None,
        out=linear("attention.output", scale=weights.pop(f"{at}.attention_scale")),
        mlp_norm=norm("mlp_norm"),
        fc1=linear("mlp.up", Activation.GELU),
        fc2=linear("mlp.down", scale=weights.pop(f"{at}.mlp_scale")),
    )
