"""transformers' InternVLForConditionalGeneration for a checkpoint's config, assembled from its logical weights."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, LlamaConfig

from workers.vision.checkpoint.config import Config, DecoderConfig
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.model.placement import Placement, weight_dtype
from workers.vision.model.quantise import Quantiser
from workers.vision.model.weights import Weight

#: transformers' model. Its annotations contradict its own mixins, so it goes untyped through our code.
StockModel = Any

_TOWER, _DECODER = "model.vision_tower", "model.language_model"
_VISION_LAYER, _DECODER_LAYER = f"{_TOWER}.encoder.layer.{{}}", f"{_DECODER}.layers.{{}}"

#: Parameter of the stock model by logical name, without `.weight` and `.bias`; `{}` is the number of a layer.
_PARAMETERS = {
    "vision.embeddings.class_token": f"{_TOWER}.embeddings.cls_token",
    "vision.embeddings.position": f"{_TOWER}.embeddings.position_embeddings",
    "vision.embeddings.patch": f"{_TOWER}.embeddings.patch_embeddings.projection",
    "vision.layers.{}.attention.q": f"{_VISION_LAYER}.attention.q_proj",
    "vision.layers.{}.attention.k": f"{_VISION_LAYER}.attention.k_proj",
    "vision.layers.{}.attention.v": f"{_VISION_LAYER}.attention.v_proj",
    "vision.layers.{}.attention.q_norm": f"{_VISION_LAYER}.attention.q_norm",
    "vision.layers.{}.attention.k_norm": f"{_VISION_LAYER}.attention.k_norm",
    "vision.layers.{}.attention.output": f"{_VISION_LAYER}.attention.projection_layer",
    "vision.layers.{}.mlp.up": f"{_VISION_LAYER}.mlp.fc1",
    "vision.layers.{}.mlp.down": f"{_VISION_LAYER}.mlp.fc2",
    "vision.layers.{}.attention_norm": f"{_VISION_LAYER}.layernorm_before",
    "vision.layers.{}.mlp_norm": f"{_VISION_LAYER}.layernorm_after",
    "vision.layers.{}.attention_scale": f"{_VISION_LAYER}.lambda_1",
    "vision.layers.{}.mlp_scale": f"{_VISION_LAYER}.lambda_2",
    "projector.norm": "model.multi_modal_projector.layer_norm",
    "projector.linear_1": "model.multi_modal_projector.linear_1",
    "projector.linear_2": "model.multi_modal_projector.linear_2",
    "decoder.embedding": f"{_DECODER}.embed_tokens",
    "decoder.layers.{}.attention.q": f"{_DECODER_LAYER}.self_attn.q_proj",
    "decoder.layers.{}.attention.k": f"{_DECODER_LAYER}.self_attn.k_proj",
    "decoder.layers.{}.attention.v": f"{_DECODER_LAYER}.self_attn.v_proj",
    "decoder.layers.{}.attention.output": f"{_DECODER_LAYER}.self_attn.o_proj",
    "decoder.layers.{}.mlp.gate": f"{_DECODER_LAYER}.mlp.gate_proj",
    "decoder.layers.{}.mlp.up": f"{_DECODER_LAYER}.mlp.up_proj",
    "decoder.layers.{}.mlp.down": f"{_DECODER_LAYER}.mlp.down_proj",
    "decoder.layers.{}.attention_norm": f"{_DECODER_LAYER}.input_layernorm",
    "decoder.layers.{}.mlp_norm": f"{_DECODER_LAYER}.post_attention_layernorm",
    "decoder.norm": f"{_DECODER}.norm",
    "decoder.output": "lm_head",
}
_LAYER_NUMBER = re.compile(r"\.(\d+)\.")


def assemble(
    config: Config,
    weights: Iterable[Weight],
    dtype: torch.dtype,
    placement: Placement,
    quantiser: Quantiser | None = None,
) -> StockModel:
    """Return the stock model with each logical weight copied to the device that `placement` gives it.

    No more than the model and one chunk of a weight are in memory at any moment. Raises `CheckpointError` if the
    weights and the model disagree.
    """
    model = empty_model(config)
    if quantiser:
        quantiser.prepare(model)
    for weight in weights:
        copied = torch.empty(weight.shape, dtype=weight_dtype(weight.name, dtype), device=placement(weight.name))
        weight.copy_to(copied)
        _assign(model, parameter_name(weight.name), copied, quantiser)
    _check_complete(model)
    # RoPE's frequencies are no weights: they are computed, where the decoder begins.
    decoder = model.model.language_model
    decoder.rotary_emb = type(decoder.rotary_emb)(decoder.config).to(placement("decoder.embedding"))
    return model


def parameter_name(logical: str) -> str:
    """Return the stock model's name of the logical weight `logical`."""
    number = _LAYER_NUMBER.search(logical)
    module = logical.replace(number[0], ".{}.", 1) if number else logical
    owner = module.removesuffix(".weight").removesuffix(".bias")
    return _PARAMETERS[owner].format(number and number[1]) + module.removeprefix(owner)


def empty_model(config: Config) -> StockModel:
    """Return the model with shapes but no memory (on the `meta` device)."""
    stock = stock_config(config)
    with torch.device("meta"):
        model: StockModel = InternVLForConditionalGeneration(stock)
    if config.vision.qk_norm:  # the stock one fixes its epsilon at 1e-6; the original's is the tower's
        for layer in model.model.vision_tower.encoder.layer:
            layer.attention.q_norm.variance_epsilon = layer.attention.k_norm.variance_epsilon = config.vision.eps
    return model.eval().requires_grad_(False)


def stock_config(config: Config) -> InternVLConfig:
    """Return `config` as transformers' configuration."""
    vision = InternVLVisionConfig(
        hidden_size=config.vision.hidden,
        # Layers whose output is not used are left out, so that the last one is always the selected one.
        num_hidden_layers=config.used_layers,
        num_attention_heads=config.vision.heads,
        intermediate_size=config.vision.inner,
        image_size=config.vision.image,
        patch_size=config.vision.patch,
        norm_type=config.vision.norm,
        layer_norm_eps=config.vision.eps,
        attention_bias=config.vision.qkv_bias,
        use_qk_norm=config.vision.qk_norm,
        use_mean_pooling=True,  # False would put an untrained norm after the tower
    )
    return InternVLConfig(
        vision_config=vision,
        text_config=_text_config(config.decoder),
        downsample_ratio=config.downsample,
        image_seq_length=config.tokens_per_tile,
        vision_feature_layer=-1,
        tie_word_embeddings=False,  # the stock default ties them, and the output layer would silently be lost
    )


def _text_config(decoder: DecoderConfig) -> LlamaConfig:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": decoder.rope_theta}
    if decoder.rope_factor != 1:
        rope |= {"rope_type": "linear", "factor": decoder.rope_factor}
    return LlamaConfig(
        hidden_size=decoder.hidden,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.kv_heads,
        head_dim=decoder.head,
        intermediate_size=decoder.inner,
        vocab_size=decoder.vocab,
        rms_norm_eps=decoder.eps,
        attention_bias=decoder.bias,
        rope_parameters=rope,
        max_position_embeddings=decoder.positions,
        tie_word_embeddings=False,
    )


def _assign(model: nn.Module, name: str, tensor: torch.Tensor, quantiser: Quantiser | None) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    expected = module.get_parameter(leaf)
    if expected.shape != tensor.shape:
        raise CheckpointError(f"the weight map gives {name} {list(tensor.shape)}; it takes {list(expected.shape)}")
    packed = quantiser.pack(expected, tensor) if quantiser else nn.Parameter(tensor, requires_grad=False)
    setattr(module, leaf, packed)


def _check_complete(model: nn.Module) -> None:
    empty = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if empty:
        raise CheckpointError(f"the weight map leaves {empty[0]} empty, and {len(empty) - 1} more")
