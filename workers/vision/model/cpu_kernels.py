"""What a CPU decodes with: each kernel is held against torch, and timed, on this very machine first."""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.vision.checkpoint.cache import Report
from workers.vision.checkpoint.config import DecoderConfig, Quantised
from workers.vision.model.attention import AttendRows, attend_padded
from workers.vision.model.decoder import PLAIN_KERNELS, DecoderKernels
from workers.vision.model.linear import BLOCK, GROUP, CpuLinear, Int4Linear, Int8Linear, Linear, MakeLinear, PlainLinear
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables
from workers.vision.model.small_batch import MIN_OUTPUTS, TILE_INPUTS, KernelsUnavailable, SmallBatchKernels

#: Rows for which the kernel may be faster: expanding a quantised weight pays off for more rows than reading one does.
ROWS: dict[Quantised | None, tuple[int, ...]] = {None: (1, 4, 8, 16), "int8": (1, 8, 16, 32), "int4": (1, 8, 16, 32)}
SHAPE = (4096, 2048)
WEIGHT_COPIES = 4  # of the weight, together larger than a core's cache, as a model is
REPETITIONS = 6  # both sides in turn, the best of each: what else runs on the machine must not decide
RELATIVE_TOLERANCE = 0.02  # of the largest output: bfloat16 sums in another order differ by half of that at most
MIN_SPEEDUP = 0.9  # times as fast as torch: below it the kernel is not used; nearer to 1 a busy machine would decide

Make = Callable[[Tensor, Tensor | None, SmallBatchKernels, int], Linear]
KINDS: dict[Quantised | None, Make] = {None: CpuLinear, "int8": Int8Linear, "int4": Int4Linear}


def cpu_kernels(
    config: DecoderConfig, dtype: torch.dtype, quantised: Quantised | None, report: Report
) -> DecoderKernels:
    """What a decoder computes with. What was measured, or why a kernel is left out, is reported."""
    if dtype != torch.bfloat16 and not quantised:
        return PLAIN_KERNELS
    try:
        kernels: SmallBatchKernels | None = SmallBatchKernels()
    except KernelsUnavailable as error:
        report(f"decoding: torch's own kernels, because small_batch.c can't be compiled: {error}")
        kernels = None
    layers = _measured(kernels, quantised, report)
    if dtype != torch.bfloat16:
        return DecoderKernels(layers)
    head = _measured(kernels, None, report) if quantised else layers
    return DecoderKernels(layers, head, checked_attention(kernels, config, report) if kernels else None)


def checked_attention(kernels: SmallBatchKernels, config: DecoderConfig, report: Report) -> AttendRows | None:
    """The kernel's attention if it can compute heads of this width and does it right."""
    if config.head % TILE_INPUTS:
        report(f"attention: torch's own, because heads of {config.head} are no multiple of {TILE_INPUTS}")
        return None
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(torch.bfloat16)

    queries = draw(2, config.heads, config.head)
    keys, values = (draw(8 * PAGE_TOKENS, config.kv_heads, config.head) for _ in "kv")
    tables = DecodeTables(torch.arange(2), torch.tensor([[5, 2, 7], [1, 0, 0]]), torch.tensor([40, 9]))
    found, expected = (attend(queries, keys, values, tables).float() for attend in (kernels.attend_rows, attend_padded))
    if (found - expected).abs().max() > RELATIVE_TOLERANCE * expected.abs().max():
        report("attention: torch's own, because small_batch.c computes something else here")
        return None
    return kernels.attend_rows


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
    weights = [weight.clone() for _ in range(WEIGHT_COPIES)]
    fast = [make(weight, None, kernels, max(ROWS[quantised])) for weight in weights]
    slow = [make(weight, None, kernels, 0) for weight in weights]
    most_rows, speedup = 0, 0.0
    for rows in ROWS[quantised]:
        x = torch.randn(rows, SHAPE[1], generator=random).to(torch.bfloat16)
        expected = slow[0](x).float()
        if (fast[0](x).float() - expected).abs().max() > RELATIVE_TOLERANCE * expected.abs().max():
            break
        faster = _faster(fast, slow, x)
        speedup = speedup or faster
        if faster < MIN_SPEEDUP:
            break
        most_rows = rows
    return most_rows, speedup


def _maker(quantised: Quantised | None, kernels: SmallBatchKernels | None, most_rows: int) -> MakeLinear:
    def make(weight: Tensor, bias: Tensor | None) -> Linear:
        rows, columns = weight.shape
        fits = rows >= MIN_OUTPUTS and columns % TILE_INPUTS == 0
        usable = kernels if fits else None
        if quantised == "int8":
            return Int8Linear(weight, bias, usable if columns % GROUP == 0 else None, most_rows)
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
