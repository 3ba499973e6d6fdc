"""Which weights a config promises, and where each goes in transformers' InternVLForConditionalGeneration.

The map is the whole difference between the released layout and the stock one: names, and two weights that are cut.
`attn.qkv` holds q, k and v one after the other. InternLM2's `wqkv` holds, for each kv head, its query heads, then its
key, then its value. RoPE is the Llama half rotation in both, so no row moves within a head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.vision.checkpoint.config import Config, DecoderConfig, VisionConfig

if TYPE_CHECKING:
    from torch import Tensor

Take = Callable[["Tensor"], "Tensor"]

#: Buffers that early releases saved; they are computed from the config.
IGNORED = ("rotary_emb.inv_freq", "embeddings.position_ids")


@dataclass(frozen=True)
class Target:
    """A parameter of the stock model, and the part of a released weight that belongs in it (None: the whole)."""

    name: str
    take: Take | None = None


@dataclass(frozen=True)
class Weight:
    """One released weight. Without targets it is checked but not loaded: the layers that `select_layer` leaves idle."""

    key: str
    shape: tuple[int, ...]
    targets: tuple[Target, ...]


def weights(config: Config) -> Iterator[Weight]:
    """Every weight that a checkpoint of `config` holds."""
    yield from _embeddings(config.vision)
    for layer in range(config.vision.layers):
        yield from _vision_layer(config.vision, layer, used=layer < config.used_layers)
    yield from _projector(config)
    yield from _decoder(config.decoder)


def _whole(key: str, name: str, *shape: int) -> Weight:
    return Weight(key, shape, (Target(name),))


def _embeddings(vision: VisionConfig) -> Iterator[Weight]:
    at, to, width = "vision_model.embeddings", "model.vision_tower.embeddings", vision.hidden
    yield _whole(f"{at}.class_embedding", f"{to}.cls_token", 1, 1, width)
    yield _whole(f"{at}.position_embedding", f"{to}.position_embeddings", 1, vision.grid**2 + 1, width)
    patch = (width, 3, vision.patch, vision.patch)
    yield _whole(f"{at}.patch_embedding.weight", f"{to}.patch_embeddings.projection.weight", *patch)
    yield _whole(f"{at}.patch_embedding.bias", f"{to}.patch_embeddings.projection.bias", width)


def _vision_layer(vision: VisionConfig, layer: int, used: bool) -> Iterator[Weight]:
    at, to = f"vision_model.encoder.layers.{layer}", f"model.vision_tower.encoder.layer.{layer}"
    width, inner = vision.hidden, vision.inner

    def qkv(part: str, *shape: int) -> Weight:
        targets = (Target(f"{to}.attention.{name}_proj.{part}", _third(third)) for third, name in enumerate("qkv"))
        return Weight(f"{at}.attn.qkv.{part}", shape, tuple(targets))

    def found() -> Iterator[Weight]:
        yield qkv("weight", 3 * width, width)
        if vision.qkv_bias:
            yield qkv("bias", 3 * width)
        if vision.qk_norm:
            yield _whole(f"{at}.attn.q_norm.weight", f"{to}.attention.q_norm.weight", width)
            yield _whole(f"{at}.attn.k_norm.weight", f"{to}.attention.k_norm.weight", width)
        yield from _linear(f"{at}.attn.proj", f"{to}.attention.projection_layer", width, width)
        yield from _linear(f"{at}.mlp.fc1", f"{to}.mlp.fc1", inner, width)
        yield from _linear(f"{at}.mlp.fc2", f"{to}.mlp.fc2", width, inner)
        for original, native in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
            yield _whole(f"{at}.{original}.weight", f"{to}.{native}.weight", width)
            if vision.norm == "layer_norm":
                yield _whole(f"{at}.{original}.bias", f"{to}.{native}.bias", width)
        yield _whole(f"{at}.ls1", f"{to}.lambda_1", width)
        yield _whole(f"{at}.ls2", f"{to}.lambda_2", width)

    for weight in found():
        yield weight if used else Weight(weight.key, weight.shape, ())


def _projector(config: Config) -> Iterator[Weight]:
    to, hidden = "model.multi_modal_projector", config.decoder.hidden
    wide = config.vision.hidden * round(1 / config.downsample) ** 2
    yield _whole("mlp1.0.weight", f"{to}.layer_norm.weight", wide)
    yield _whole("mlp1.0.bias", f"{to}.layer_norm.bias", wide)
    yield from _linear("mlp1.1", f"{to}.linear_1", hidden, wide)
    yield from _linear("mlp1.3", f"{to}.linear_2", hidden, hidden)


def _decoder(decoder: DecoderConfig) -> Iterator[Weight]:
    at, to = "language_model.model", "model.language_model"
    internlm2 = decoder.kind == "internlm2"
    table = (decoder.vocab, decoder.hidden)
    yield _whole(
        f"{at}.{'tok_embeddings' if internlm2 else 'embed_tokens'}.weight", f"{to}.embed_tokens.weight", *table
    )
    for layer in range(decoder.layers):
        layer_weights = _internlm2_layer if internlm2 else _llama_layer
        yield from layer_weights(decoder, f"{at}.layers.{layer}", f"{to}.layers.{layer}")
    yield _whole(f"{at}.norm.weight", f"{to}.norm.weight", decoder.hidden)
    yield _whole(f"language_model.{'output' if internlm2 else 'lm_head'}.weight", "lm_head.weight", *table)


def _internlm2_layer(decoder: DecoderConfig, at: str, to: str) -> Iterator[Weight]:
    hidden, inner = decoder.hidden, decoder.inner
    rows = hidden + 2 * decoder.kv_heads * decoder.head
    for part, shape in (("weight", (rows, hidden)), ("bias", (rows,))):
        if part == "bias" and not decoder.bias:
            continue
        targets = (Target(f"{to}.self_attn.{name}_proj.{part}", _of_group(decoder, name)) for name in "qkv")
        yield Weight(f"{at}.attention.wqkv.{part}", shape, tuple(targets))
    yield from _linear(f"{at}.attention.wo", f"{to}.self_attn.o_proj", hidden, hidden, bias=decoder.bias)
    yield from _linear(f"{at}.feed_forward.w1", f"{to}.mlp.gate_proj", inner, hidden, bias=False)
    yield from _linear(f"{at}.feed_forward.w3", f"{to}.mlp.up_proj", inner, hidden, bias=False)
    yield from _linear(f"{at}.feed_forward.w2", f"{to}.mlp.down_proj", hidden, inner, bias=False)
    yield _whole(f"{at}.attention_norm.weight", f"{to}.input_layernorm.weight", hidden)
    yield _whole(f"{at}.ffn_norm.weight", f"{to}.post_attention_layernorm.weight", hidden)


def _llama_layer(decoder: DecoderConfig, at: str, to: str) -> Iterator[Weight]:
    hidden, inner, kv_width = decoder.hidden, decoder.inner, decoder.kv_heads * decoder.head
    for name, rows in (("q", hidden), ("k", kv_width), ("v", kv_width), ("o", hidden)):
        linear = f"self_attn.{name}_proj"
        yield from _linear(f"{at}.{linear}", f"{to}.{linear}", rows, hidden, bias=decoder.bias)
    for name, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
        yield from _linear(f"{at}.mlp.{name}_proj", f"{to}.mlp.{name}_proj", rows, columns, bias=False)
    for name in ("input_layernorm", "post_attention_layernorm"):
        yield _whole(f"{at}.{name}.weight", f"{to}.{name}.weight", hidden)


def _linear(key: str, name: str, rows: int, columns: int, bias: bool = True) -> Iterator[Weight]:
    yield _whole(f"{key}.weight", f"{name}.weight", rows, columns)
    if bias:
        yield _whole(f"{key}.bias", f"{name}.bias", rows)


def _third(index: int) -> Take:
    def take(tensor: "Tensor") -> "Tensor":
        return tensor.chunk(3)[index]

    return take


def _of_group(decoder: DecoderConfig, name: str) -> Take:
    """The queries, keys or values out of rows that lie (kv_heads, queries of one + key + value, head)."""
    queries = decoder.heads // decoder.kv_heads
    part = {"q": slice(0, queries), "k": slice(queries, queries + 1), "v": slice(queries + 1, queries + 2)}[name]

    def take(tensor: "Tensor") -> "Tensor":
        grouped = tensor.reshape(decoder.kv_heads, queries + 2, decoder.head, *tensor.shape[1:])
        return grouped[:, part].flatten(0, 2)

    return take
