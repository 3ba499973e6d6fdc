"""Encoder and decoder of one checkpoint, built from fused weights."""

from dataclasses import dataclass

from torch import Tensor

from workers.vision.checkpoint.config import Config
from workers.vision.model.decoder import Decoder
from workers.vision.model.linear import MakeLinear, PlainLinear
from workers.vision.model.vision_encoder import VisionEncoder


@dataclass(frozen=True)
class VisionLanguageModel:
    """What an engine runs."""

    encoder: VisionEncoder
    decoder: Decoder


def build_model(
    config: Config,
    weights: dict[str, Tensor],
    make_linear: MakeLinear = PlainLinear,
    make_head: MakeLinear = PlainLinear,
) -> VisionLanguageModel:
    """Build the model with the decoder's linear layers as the makers have them.

    `weights` is emptied on the way, so that a repacked weight does not stay beside its source.
    """
    encoder = VisionEncoder(config, weights, PlainLinear)
    model = VisionLanguageModel(encoder, Decoder(config.decoder, weights, make_linear, make_head))
    if weights:
        raise ValueError(f"no place for {next(iter(weights))} and {len(weights) - 1} more weights")
    return model
