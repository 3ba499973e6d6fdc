"""Which tensors a released checkpoint holds, and which logical weight each of them, or each part of them, is.

    released tensor                                      logical weights
    language_model.model.layers.3.attention.wqkv.weight  decoder.layers.3.attention.q.weight, …k.weight, …v.weight
    vision_model.encoder.layers.0.attn.qkv.bias          vision.layers.0.attention.q.bias, …k.bias, …v.bias
    mlp1.1.weight                                        projector.linear_1.weight

A logical weight is one matrix or vector of the architecture: the same names, shapes and row order for every release,
whatever its decoder is called. A model is assembled from them: the stock one (`model.hf_model`) takes each as a
parameter of its own, a fused one puts q, k and v or gate and up below one another.

Vision's `attn.qkv` holds q, k and v one after the other. InternLM2's `wqkv` holds, for each kv head, its query heads,
then its key, then its value (modeling_internlm2.py of the release). RoPE is the Llama half rotation in both decoders,
so no row moves within a head.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from workers.vision.checkpoint.config import Config, DecoderConfig, VisionConfig

#: Buffers that early releases saved; they are computed from the config.
IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "embeddings.position_ids")


@dataclass(frozen=True)
class Slice:
    """Rows of a tensor: its first axis is `groups` x `blocks` x a width; blocks `start` to `stop` of every group."""

    groups: int = 1
    blocks: int = 1
    start: int = 0
    stop: int = 1

    @property
    def whole(self) -> bool:
        """Whether all rows are meant, in their order."""
        return (self.start, self.stop) == (0, self.blocks)

    def shape(self, released: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the slice of a tensor of shape `released`."""
        return (released[0] // self.blocks * (self.stop - self.start), *released[1:])


WHOLE = Slice()


@dataclass(frozen=True)
class LogicalWeight:
    """One weight of the architecture, as part of a released tensor."""

    name: str
    shape: tuple[int, ...]
    slice: Slice


@dataclass(frozen=True)
class ReleasedTensor:
    """One tensor of the files. Layers that `select_layer` leaves out have no `weights`: checked but not loaded."""

    key: str
    shape: tuple[int, ...]
    weights: tuple[LogicalWeight, ...]


def released_tensors(config: Config) -> Iterator[ReleasedTensor]:
    """Yield every tensor that a checkpoint of `config` holds."""
    yield from _vision_embeddings(config.vision)
    for layer in range(config.vision.layers):
        used = layer < config.used_layers
        for tensor in _vision_layer(config.vision, layer):
            yield tensor if used else ReleasedTensor(tensor.key, tensor.shape, ())
    yield from _projector(config)
    yield from _decoder(config.decoder)


def weight_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shape of every logical weight of the model that is loaded, by name."""
    return {weight.name: weight.shape for tensor in released_tensors(config) for weight in tensor.weights}


def count_parameters(config: Config) -> int:
    """Return the number of parameters of the release, idle layers included."""
    return sum(prod(tensor.shape) for tensor in released_tensors(config))


def _tensor(key: str, name: str, *shape: int) -> ReleasedTensor:
    """A released tensor that is one logical weight."""
    return ReleasedTensor(key, shape, (LogicalWeight(name, shape, WHOLE),))


def _split(key: str, shape: tuple[int, ...], parts: dict[str, Slice]) -> ReleasedTensor:
    """A released tensor that holds several logical weights."""
    weights = (LogicalWeight(name, part.shape(shape), part) for name, part in parts.items())
    return ReleasedTensor(key, shape, tuple(weights))


def _linear(key: str, name: str, rows: int, columns: int, bias: bool = True) -> Iterator[ReleasedTensor]:
    yield _tensor(f"{key}.weight", f"{name}.weight", rows, columns)
    if bias:
        yield _tensor(f"{key}.bias", f"{name}.bias", rows)


def _vision_embeddings(vision: VisionConfig) -> Iterator[ReleasedTensor]:
    key, name, width = "vision_model.embeddings", "vision.embeddings", vision.hidden
    yield _tensor(f"{key}.class_embedding", f"{name}.class_token", 1, 1, width)
    yield _tensor(f"{key}.position_embedding", f"{name}.position", 1, vision.grid**2 + 1, width)
    yield _tensor(f"{key}.patch_embedding.weight", f"{name}.patch.weight", width, 3, vision.patch, vision.patch)
    yield _tensor(f"{key}.patch_embedding.bias", f"{name}.patch.bias", width)


def _vision_layer(vision: VisionConfig, layer: int) -> Iterator[ReleasedTensor]:
    key, name = f"vision_model.encoder.layers.{layer}", f"vision.layers.{layer}"
    width, inner = vision.hidden, vision.inner
    yield _vision_qkv(key, name, "weight", 3 * width, width)
    if vision.qkv_bias:
        yield _vision_qkv(key, name, "bias", 3 * width)
    if vision.qk_norm:
        yield _tensor(f"{key}.attn.q_norm.weight", f"{name}.attention.q_norm.weight", width)
        yield _tensor(f"{key}.attn.k_norm.weight", f"{name}.attention.k_norm.weight", width)
    yield from _linear(f"{key}.attn.proj", f"{name}.attention.output", width, width)
    yield from _linear(f"{key}.mlp.fc1", f"{name}.mlp.up", inner, width)
    yield from _linear(f"{key}.mlp.fc2", f"{name}.mlp.down", width, inner)
    for released, logical in (("norm1", "attention_norm"), ("norm2", "mlp_norm")):
        yield _tensor(f"{key}.{released}.weight", f"{name}.{logical}.weight", width)
        if vision.norm == "layer_norm":
            yield _tensor(f"{key}.{released}.bias", f"{name}.{logical}.bias", width)
    yield _tensor(f"{key}.ls1", f"{name}.attention_scale", width)
    yield _tensor(f"{key}.ls2", f"{name}.mlp_scale", width)


def _vision_qkv(key: str, name: str, kind: str, *shape: int) -> ReleasedTensor:
    parts = {f"{name}.attention.{part}.{kind}": Slice(1, 3, n, n + 1) for n, part in enumerate("qkv")}
    return _split(f"{key}.attn.qkv.{kind}", shape, parts)


def _projector(config: Config) -> Iterator[ReleasedTensor]:
    hidden = config.decoder.hidden
    wide = config.vision.hidden * round(1 / config.downsample) ** 2
    yield _tensor("mlp1.0.weight", "projector.norm.weight", wide)
    yield _tensor("mlp1.0.bias", "projector.norm.bias", wide)
    yield from _linear("mlp1.1", "projector.linear_1", hidden, wide)
    yield from _linear("mlp1.3", "projector.linear_2", hidden, hidden)


def _decoder(decoder: DecoderConfig) -> Iterator[ReleasedTensor]:
    internlm2 = decoder.kind == "internlm2"
    embedding = "model.tok_embeddings" if internlm2 else "model.embed_tokens"
    output = "output" if internlm2 else "lm_head"
    layer_tensors = _internlm2_layer if internlm2 else _llama_layer
    yield _tensor(f"language_model.{embedding}.weight", "decoder.embedding.weight", decoder.vocab, decoder.hidden)
    for layer in range(decoder.layers):
        yield from layer_tensors(decoder, f"language_model.model.layers.{layer}", f"decoder.layers.{layer}")
    yield _tensor("language_model.model.norm.weight", "decoder.norm.weight", decoder.hidden)
    yield _tensor(f"language_model.{output}.weight", "decoder.output.weight", decoder.vocab, decoder.hidden)


def _internlm2_layer(decoder: DecoderConfig, key: str, name: str) -> Iterator[ReleasedTensor]:
    hidden, inner = decoder.hidden, decoder.inner
    rows = hidden + 2 * decoder.kv_heads * decoder.head
    yield _internlm2_qkv(decoder, key, name, "weight", rows, hidden)
    if decoder.bias:
        yield _internlm2_qkv(decoder, key, name, "bias", rows)
    yield from _linear(f"{key}.attention.wo", f"{name}.attention.output", hidden, hidden, bias=decoder.bias)
    yield from _linear(f"{key}.feed_forward.w1", f"{name}.mlp.gate", inner, hidden, bias=False)
    yield from _linear(f"{key}.feed_forward.w3", f"{name}.mlp.up", inner, hidden, bias=False)
    yield from _linear(f"{key}.feed_forward.w2", f"{name}.mlp.down", hidden, inner, bias=False)
    yield _tensor(f"{key}.attention_norm.weight", f"{name}.attention_norm.weight", hidden)
    yield _tensor(f"{key}.ffn_norm.weight", f"{name}.mlp_norm.weight", hidden)


def _internlm2_qkv(decoder: DecoderConfig, key: str, name: str, kind: str, *shape: int) -> ReleasedTensor:
    """Rows lie as (kv_heads, query heads of one kv head + key + value, head)."""
    groups, queries = decoder.kv_heads, decoder.heads // decoder.kv_heads
    blocks = queries + 2
    parts = {
        "q": Slice(groups, blocks, 0, queries),
        "k": Slice(groups, blocks, queries, queries + 1),
        "v": Slice(groups, blocks, queries + 1, blocks),
    }
    named = {f"{name}.attention.{part}.{kind}": rows for part, rows in parts.items()}
    return _split(f"{key}.attention.wqkv.{kind}", shape, named)


def _llama_layer(decoder: DecoderConfig, key: str, name: str) -> Iterator[ReleasedTensor]:
    hidden, inner, kv_width = decoder.hidden, decoder.inner, decoder.kv_heads * decoder.head
    for released, logical, rows in (
        ("q_proj", "q", hidden),
        ("k_proj", "k", kv_width),
        ("v_proj", "v", kv_width),
        ("o_proj", "output", hidden),
    ):
        yield from _linear(f"{key}.self_attn.{released}", f"{name}.attention.{logical}", rows, hidden, decoder.bias)
    for part, rows, columns in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
        yield from _linear(f"{key}.mlp.{part}_proj", f"{name}.mlp.{part}", rows, columns, bias=False)
    yield _tensor(f"{key}.input_layernorm.weight", f"{name}.attention_norm.weight", hidden)
    yield _tensor(f"{key}.post_attention_layernorm.weight", f"{name}.mlp_norm.weight", hidden)
