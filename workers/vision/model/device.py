"""Which device and which number type to load for: the one asked for, or the one that this machine computes well."""

import time
from collections.abc import Callable

import torch

from workers.vision.checkpoint.fields import CheckpointError

PRODUCT_SIDE = 768  # of the square matrices multiplied to measure the speed, as large as a layer
PRODUCTS = 4  # of which the fastest counts; the first one warms up
MIN_BF16_SPEEDUP = 1.5  # on a CPU; below it, bf16's coarser numbers are not worth it


def choose_device(name: str) -> str:
    """`auto` is the GPU if there is one. Raises `CheckpointError` for one that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise CheckpointError(f"the device is to be {name}, but torch {torch.__version__} finds no GPU here")
    if name.startswith("cuda:") and int(name.removeprefix("cuda:")) >= torch.cuda.device_count():
        raise CheckpointError(f"the device is to be {name}, but there are {torch.cuda.device_count()} GPUs")
    return name


def choose_dtype(name: str, device: str, fits: Callable[[torch.dtype], bool] = lambda _: True) -> torch.dtype:
    """`auto` is bfloat16 where the device computes it well, else float32, and float16 where that does not fit.

    The models were trained in bfloat16, and their activations may pass the 65504 that float16 ends at.
    """
    if name != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[name]
    if device.startswith("cuda"):
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float32 if fits(torch.float32) else torch.float16
    narrow, wide = (seconds_per_operation(kind, torch.device(device)) for kind in (torch.bfloat16, torch.float32))
    return torch.bfloat16 if wide / narrow > MIN_BF16_SPEEDUP else torch.float32


def seconds_per_operation(dtype: torch.dtype, device: torch.device) -> float:
    """Return the seconds of one multiplication or addition in the fastest of a few matrix products on `device`."""
    matrix = torch.ones(PRODUCT_SIDE, PRODUCT_SIDE, dtype=dtype, device=device)
    return min(_seconds_of_product(matrix) for _ in range(PRODUCTS)) / (2 * PRODUCT_SIDE**3)


def _seconds_of_product(matrix: torch.Tensor) -> float:
    began = time.perf_counter()
    product = matrix @ matrix
    if product.is_cuda:
        torch.cuda.synchronize(product.device)
    return time.perf_counter() - began
