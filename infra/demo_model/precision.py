"""The data type for training on this machine: bfloat16 where the processor multiplies it fast, else float32.

With avx512_bf16 a bfloat16 matrix product takes a quarter of float32's time; without it (AMD EPYC, Zen 3), five to
seven times as long.
"""

from functools import cache

import torch

from workers.vision.model.device import choose_dtype


@cache
def compute_dtype() -> torch.dtype:
    """Return the data type of the faster matrix product, measured as a vision worker measures it."""
    return choose_dtype("auto", "cpu")


def autocast() -> torch.autocast:
    """Return the autocast context of the model's forward pass in training."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=compute_dtype() is torch.bfloat16)
