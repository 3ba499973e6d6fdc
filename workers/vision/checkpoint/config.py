"""The released `config.json`, read and checked field by field. Nothing that it names is executed.

    InternVLChatModel ── vision_config  InternVisionModel
                      └─ llm_config     InternLM2ForCausalLM | LlamaForCausalLM

`auto_map` and everything else that points at code is ignored. Fields that a release left out have the defaults of the
release's configuration classes (configuration_internvl_chat.py and its neighbours); widths and depths have none.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shared.models import Template
from workers.vision.checkpoint.fields import CheckpointError, Fields
from workers.vision.prompts import TEMPLATES

CHAT_MODEL = "InternVLChatModel"
Quantised = Literal["int8", "int4"]  #: how a decoder's weights may be packed while loading
DECODERS = {"InternLM2ForCausalLM": "internlm2", "LlamaForCausalLM": "llama"}


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower."""

    hidden: int
    layers: int
    heads: int
    inner: int
    image: int  #: side of a tile, pixels
    patch: int
    norm: Literal["layer_norm", "rms_norm"]
    eps: float
    qkv_bias: bool
    qk_norm: bool

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image // self.patch


@dataclass(frozen=True)
class DecoderConfig:
    """The language model."""

    kind: Literal["internlm2", "llama"]
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocab: int
    eps: float
    bias: bool
    rope_theta: float
    rope_factor: float  #: positions are divided by this (linear scaling); 1 for none
    positions: int

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


@dataclass(frozen=True)
class Config:
    """What a checkpoint says of its model."""

    vision: VisionConfig
    decoder: DecoderConfig
    template: Template
    system: str  #: "" where the file has none
    downsample: float
    select_layer: int
    transposed: bool  #: ps_version v1: the grid of tokens lies column by column
    tiles: bool  #: images are cut into tiles
    thumbnail: bool
    dtype: str  #: of the released weights
    name: str  #: `_name_or_path`; "" if there is none

    @property
    def used_layers(self) -> int:
        """Layers of the tower whose output reaches the decoder: `select_layer` -4 leaves the last three idle."""
        return self.vision.layers + 1 + self.select_layer if self.select_layer < 0 else self.select_layer

    @property
    def token_grid(self) -> int:
        """Tokens along one side of a tile."""
        return int(self.vision.grid * self.downsample)

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of one tile."""
        return self.token_grid**2

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together. Dynamic RoPE scaling would begin here; no request goes past it."""
        return self.decoder.positions


def read_config(folder: Path) -> Config:
    """Read and check `folder`/config.json. Raises `CheckpointError`."""
    top = Fields(str(folder / "config.json"), _load(folder / "config.json"))
    _architecture(top, (CHAT_MODEL,))
    vision, decoder = _vision(top.inner("vision_config")), _decoder(top.inner("llm_config"))
    top.only("tie_word_embeddings", False, False)
    top.only("pad2square", False, False)
    downsample = top.number("downsample_ratio", 0.5)
    if downsample != 0.5:
        raise top.error("downsample_ratio", f"is {downsample:g}; supported: 0.5")
    if vision.grid % 2:
        raise top.error("downsample_ratio", f"of 0.5 does not divide {vision.grid} patches a side")
    if (forced := top.values.get("force_image_size")) not in (None, vision.image):
        raise top.error("force_image_size", f"is {forced!r}, but vision_config.image_size is {vision.image}")
    template = top.one_of("template", tuple(TEMPLATES))
    return Config(
        vision=vision,
        decoder=decoder,
        template=template,
        system=top.text("system_message", None) if top.values.get("system_message") else "",
        downsample=downsample,
        select_layer=_select_layer(top, vision.layers),
        transposed=top.one_of("ps_version", ("v1", "v2"), "v1") == "v1",
        tiles=top.flag("dynamic_image_size", False),
        thumbnail=top.flag("use_thumbnail", False),
        dtype=str(top.values.get("torch_dtype") or "float32"),
        name=str(top.values.get("_name_or_path") or ""),
    )


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: not there; a checkpoint in the original InternVL-Chat layout has it") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return values


def _architecture(fields: Fields, known: tuple[str, ...]) -> str:
    named = fields.values.get("architectures")
    if not isinstance(named, list) or not named:
        raise fields.error("architectures", f"is missing; supported: {', '.join(known)}")
    if named[0] not in known:
        raise fields.error("architectures", f"is {named[0]!r}; supported: {', '.join(known)}")
    return str(named[0])


def _select_layer(top: Fields, layers: int) -> int:
    chosen: int = top.integer("select_layer", -1, least=-layers)
    if not (-layers <= chosen <= -1 or 1 <= chosen <= layers):
        raise top.error("select_layer", f"is {chosen}; the tower has {layers} layers")
    return chosen


def _vision(fields: Fields) -> VisionConfig:
    fields.only("hidden_act", "gelu", "gelu")
    fields.only("num_channels", 3, 3)
    vision = VisionConfig(
        hidden=fields.integer("hidden_size"),
        layers=fields.integer("num_hidden_layers"),
        heads=fields.integer("num_attention_heads"),
        inner=fields.integer("intermediate_size"),
        image=fields.integer("image_size"),
        patch=fields.integer("patch_size"),
        norm=fields.one_of("norm_type", ("layer_norm", "rms_norm"), "rms_norm"),
        eps=fields.number("layer_norm_eps", 1e-6),
        qkv_bias=fields.flag("qkv_bias", False),
        qk_norm=fields.flag("qk_normalization", True),
    )
    if vision.hidden % vision.heads:
        raise fields.error("hidden_size", f"of {vision.hidden} does not divide into {vision.heads} heads")
    if vision.image % vision.patch:
        raise fields.error("patch_size", f"of {vision.patch} does not divide image_size {vision.image}")
    return vision


def _decoder(fields: Fields) -> DecoderConfig:
    kind: Any = DECODERS[_architecture(fields, tuple(DECODERS))]
    fields.only("hidden_act", "silu", "silu")
    fields.only("tie_word_embeddings", False, False)
    heads = fields.integer("num_attention_heads")
    positions = fields.integer("max_position_embeddings")
    decoder = DecoderConfig(
        kind=kind,
        hidden=fields.integer("hidden_size"),
        layers=fields.integer("num_hidden_layers"),
        heads=heads,
        kv_heads=fields.integer("num_key_value_heads", heads),
        inner=fields.integer("intermediate_size"),
        vocab=fields.integer("vocab_size"),
        eps=fields.number("rms_norm_eps", 1e-6),
        bias=fields.flag("bias", True) if kind == "internlm2" else fields.flag("attention_bias", False),
        rope_theta=fields.number("rope_theta", 10_000.0),
        rope_factor=_rope_factor(fields),
        positions=positions,
    )
    if decoder.hidden % heads or heads % decoder.kv_heads:
        raise fields.error(
            "num_attention_heads", f"of {heads} fits neither {decoder.hidden} wide nor {decoder.kv_heads} kv heads"
        )
    if decoder.head % 2:
        raise fields.error("hidden_size", f"gives heads of odd width {decoder.head}, which RoPE can't turn")
    return decoder


def _rope_factor(fields: Fields) -> float:
    """Return the linear factor; `dynamic` scaling changes nothing within max_position_embeddings."""
    if fields.values.get("rope_scaling") is None:
        return 1.0
    scaling = fields.inner("rope_scaling")
    kind = scaling.one_of("type", ("dynamic", "linear"))
    return scaling.number("factor") if kind == "linear" else 1.0
