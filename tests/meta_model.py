"""A model without memory, on torch's meta device: shapes and operations are real, numbers are not there.

Whatever would have to wait for numbers of the device fails on it.
"""

import torch

from workers.vision.bench.random_model import Sizes, shapes
from workers.vision.checkpoint.weight_map import WHOLE, weight_shapes
from workers.vision.model.decoder import PLAIN_KERNELS, DecoderKernels
from workers.vision.model.fused import fuse
from workers.vision.model.placement import on_one_device
from workers.vision.model.vision_language_model import VisionLanguageModel, build_model
from workers.vision.model.weights import Weight

META = torch.device("meta")


def meta_model(sizes: Sizes, kernels: DecoderKernels = PLAIN_KERNELS) -> VisionLanguageModel:
    """The packed model of `sizes` in bf16."""
    config, _ = shapes(sizes)
    weights = (
        Weight(name, shape, torch.empty(shape, dtype=torch.bfloat16, device=META), WHOLE, lambda: None)
        for name, shape in weight_shapes(config).items()
    )
    return build_model(config, fuse(weights, config, torch.bfloat16, on_one_device(config, META)), kernels)
