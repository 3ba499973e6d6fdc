"""The stock model of a config: transformers' InternVLForConditionalGeneration, without weights yet."""

from typing import Any

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, LlamaConfig

from workers.vision.checkpoint.config import Config, DecoderConfig


def native_config(config: Config) -> InternVLConfig:
    """`config` in the words of transformers."""
    vision = InternVLVisionConfig(
        hidden_size=config.vision.hidden,
        # Layers whose output nobody sees are left out, so that the last one is always the selected one.
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
        text_config=_text(config.decoder),
        downsample_ratio=config.downsample,
        image_seq_length=config.tokens_per_tile,
        vision_feature_layer=-1,
        tie_word_embeddings=False,  # the stock default ties them, and the output layer would silently be lost
    )


def _text(decoder: DecoderConfig) -> LlamaConfig:
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


#: transformers' model. Its annotations contradict its own mixins, so it goes untyped through our code.
StockModel = Any


def empty_model(config: Config) -> StockModel:
    """The model with shapes but no memory (on the `meta` device)."""
    native = native_config(config)
    with torch.device("meta"):
        model: StockModel = InternVLForConditionalGeneration(native)
    if config.vision.qk_norm:  # the stock one fixes its epsilon at 1e-6; the original's is the tower's
        for layer in model.model.vision_tower.encoder.layer:
            layer.attention.q_norm.variance_epsilon = layer.attention.k_norm.variance_epsilon = config.vision.eps
    return model.eval().requires_grad_(False)
