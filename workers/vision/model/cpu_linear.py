"""Which linear layers a CPU decodes with: each kernel is held against torch and timed on this very machine first."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.config import Quantised
from workers.vision.model.linear import BLOCK, CpuLinear, Int4Linear, Int8Linear, Linear, MakeLinear, PlainLinear
from workers.vision.model.small_batch import LEAST_OUTPUTS, TILE_INPUTS, KernelsUnavailable, SmallBatchKernels

ROWS = (1, 2, 4, 8, 16, 32)
SHAPE = (4096, 2048)
COPIES = 4  # of the weight, together larger than a core's cache, as a model is
REPETITIONS = 12  # both sides in turn, the best of each: what else runs on the machine must not decide
TOLERANCE = 0.02  # of the largest output: bfloat16 sums in another order differ by half of that at most
SLOWER = 0.9  # times as fast as torch: below it the kernel is not used; between it and 1 noise would decide

Make = Callable[[Tensor, Tensor | None, SmallBatchKernels, int], Linear]
KINDS: dict[Quantised | None, Make] = {None: CpuLinear, "int8": Int8Linear, "int4": Int4Linear}


def cpu_linears(dtype: torch.dtype, quantised: Quantised | None, report: Report) -> tuple[MakeLinear, MakeLinear]:
    """The makers of the decoder's layers and of its output layer, which is never quantised.

    What was measured, or why a kernel is left out, is reported.
    """
    if dtype != torch.bfloat16 and not quantised:
        return PlainLinear, PlainLinear
    try:
        kernels: SmallBatchKernels | None = SmallBatchKernels()
    except KernelsUnavailable as error:
        report(f"linear layers: torch's own kernels, because small_batch.c can't be compiled: {error}")
        kernels = None
    layers = _measured(kernels, quantised, report)
    if dtype != torch.bfloat16:
        return layers, PlainLinear
    return layers, _measured(kernels, None, report) if quantised else layers


def _measured(kernels: SmallBatchKernels | None, quantised: Quantised | None, report: Report) -> MakeLinear:
    if kernels is None:
        return _maker(quantised, None, 0)
    most_rows, speedup = measure(kernels, quantised)
    name = f"{quantised or 'bfloat16'} linear layers"
    report(f"{name}: small_batch.c for up to {most_rows} rows, {speedup:.1f}x as fast as torch for one")
    return _maker(quantised, kernels, most_rows)


def measure(kernels: SmallBatchKernels, quantised: Quantised | None) -> tuple[int, float]:
    """Up to how many rows the kernel is right and faster than torch with the same weights, and how much for one."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(*SHAPE, generator=random).mul_(0.02).to(torch.bfloat16)
    make = KINDS[quantised]
    weights = [weight.clone() for _ in range(COPIES)]
    fast = [make(weight, None, kernels, max(ROWS)) for weight in weights]
    slow = [make(weight, None, kernels, 0) for weight in weights]
    most_rows, speedup = 0, 0.0
    for rows in ROWS:
        x = torch.randn(rows, SHAPE[1], generator=random).to(torch.bfloat16)
        expected = slow[0](x).float()
        if (fast[0](x).float() - expected).abs().max() > TOLERANCE * expected.abs().max():
            break
        faster = _faster(fast, slow, x)
        speedup = speedup or faster
        if faster < SLOWER:
            break
        most_rows = rows
    return most_rows, speedup


def _maker(quantised: Quantised | None, kernels: SmallBatchKernels | None, most_rows: int) -> MakeLinear:
    def make(weight: Tensor, bias: Tensor | None) -> Linear:
        rows, columns = weight.shape
        fits = rows >= LEAST_OUTPUTS and columns % TILE_INPUTS == 0
        usable = kernels if fits else None
        if quantised == "int8":
            return Int8Linear(weight, bias, usable, most_rows)
        if quantised == "int4" and columns % BLOCK == 0:
            return Int4Linear(weight, bias, usable, most_rows)
        return CpuLinear(weight, bias, usable, most_rows) if usable and most_rows else PlainLinear(weight, bias)

    return make


def _faster(fast: Sequence[Linear], slow: Sequence[Linear], x: Tensor) -> float:
    """How many times as fast the first layers are as the second."""
    best = [float("inf"), float("inf")]
    for _ in range(REPETITIONS):
        for side, layers in enumerate((fast, slow)):
            began = time.perf_counter()
            for layer in layers:
                layer(x)
            best[side] = min(best[side], time.perf_counter() - began)
    return best[1] / best[0]
