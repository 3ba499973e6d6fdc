"""Encoder and decoder of one checkpoint, built from fused weights."""

from dataclasses import dataclass

from torch import Tensor

from workers.vision.checkpoint.config import Config
from workers.vision.model.decoder import PLAIN_KERNELS, Decoder, DecoderKernels
from workers.vision.model.vision_encoder import VisionEncoder


@dataclass(frozen=True)
class VisionLanguageModel:
    """What an engine runs."""

    encoder: VisionEncoder
    decoder: Decoder


def build_model(
    config: Config, weights: dict[str, Tensor], kernels: DecoderKernels = PLAIN_KERNELS
) -> VisionLanguageModel:
    """Build the model on `kernels`.

    `weights` is emptied on the way, so that a repacked weight does not stay beside its source.
    """
    encoder = VisionEncoder(config, weights, kernels.encoder_linear, kernels.attend_tiles)
    model = VisionLanguageModel(encoder, Decoder(config.decoder, weights, kernels))
    if weights:
        raise ValueError(f"no place for {next(iter(weights))} and {len(weights) - 1} more weights")
    return model
