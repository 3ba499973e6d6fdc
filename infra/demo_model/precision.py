"""In which numbers this machine trains: bfloat16 where its processor multiplies them, else float32.

With avx512_bf16 a product takes a quarter of the time in bfloat16; without it (AMD EPYC, Zen 3), five to seven times
as long.
"""

from functools import cache

import torch

from workers.vision.model.device import choose_dtype


@cache
def compute_dtype() -> torch.dtype:
    """Return the number type in which this machine multiplies quicker, measured as a vision worker does."""
    return choose_dtype("auto", "cpu")


def autocast() -> torch.autocast:
    """Return the context in which the model computes while it is trained."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=compute_dtype() is torch.bfloat16)
