"""Weights as `kernels/linear.c` reads them: bfloat16, int8 or 4-bit codes in the order of its loops.

    (out, in) ─> panels of 32 outputs ─> codes and scales ─> (panels, in / n, 32, n): n inputs of 32 outputs in a row

int8 has a scale for each output, NF4 one for 64 weights. A gated weight has 16 gates and their values in a panel.
"""

import ctypes
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from workers.vision.model.cpu_library import Format

PANEL, LANES, GROUP = 32, 16, 64  # outputs that lie together, half of them, 4-bit weights that share a scale
#: What `in` has to be a multiple of.
MULTIPLES = {Format.BF16: LANES, Format.INT8: GROUP, Format.INT4: GROUP}
CODES_PER_WORD = {Format.BF16: 2, Format.INT8: 4, Format.INT4: 8}  #: of 4 bytes
#: The quantiles of a normal distribution between -1 and 1: "NF4" of QLoRA, arXiv 2305.14314, appendix E.
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.24611229, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
MIN_SCALE = 1e-12  # of a group of zeros
CHUNK_WEIGHTS = 1 << 18  # packed at once, so that what lies between the steps stays in a core's cache
MADV_HUGEPAGE = 14  # of asm-generic/mman-common.h
HUGE_PAGE = 2 << 20


def pack(weight: Tensor, form: Format, *, gated: bool) -> tuple[Tensor, Tensor]:
    """Codes of (out, in) as (panels, in / n, 32, n), and their scales, which bfloat16 has none of."""
    panels = to_panels(weight, gated)
    words = _on_huge_pages(len(panels), panels.shape[2] // CODES_PER_WORD[form], PANEL)
    each = max(1, CHUNK_WEIGHTS // panels[0].numel())

    @torch.inference_mode()  # a thread does not inherit it, and a tensor made in it may be written in it only
    def pack_chunk(chunk: Tensor, target: Tensor) -> Tensor:
        codes, scales = PACK[form](chunk)
        target.copy_(codes.view(torch.int32).transpose(1, 2))
        return scales

    with _a_thread_for_each_core() as threads:
        scales = torch.cat(list(threads.map(pack_chunk, torch.split(panels, each), torch.split(words, each))))
    return words.unsqueeze(3).view(torch.bfloat16 if form is Format.BF16 else torch.uint8), scales


def expand(codes: Tensor, scales: Tensor, form: Format) -> Tensor:
    """(panels, 32, in), the numbers that packed codes stand for, in bfloat16 or float32."""
    return EXPAND[form](codes.transpose(1, 2), scales)


def to_panels(weight: Tensor, gated: bool) -> Tensor:
    """(out, in) as (panels, 32, in), filled up with zeros."""
    if gated:
        weight = weight.view(2, -1, LANES, weight.shape[1]).transpose(0, 1).flatten(0, 2)
    if missing := -len(weight) % PANEL:
        weight = torch.cat((weight, weight.new_zeros(missing, weight.shape[1])))
    return weight.view(-1, PANEL, weight.shape[1])


def from_panels(panels: Tensor, outputs: int, gated: bool) -> Tensor:
    """(panels, 32, in) as (outputs, in)."""
    if gated:
        panels = panels.view(len(panels), 2, LANES, -1).transpose(0, 1)
    return panels.reshape(-1, panels.shape[-1])[:outputs]


def code_table() -> Tensor:
    """What each 4-bit code stands for: whole 127ths, because integer products want integers, 128 added."""
    return torch.tensor(NF4).mul(127).round().add(128).to(torch.uint8)


def _pack_bf16(panels: Tensor) -> tuple[Tensor, Tensor]:
    return panels.to(torch.bfloat16), torch.empty(0)


def _pack_int8(panels: Tensor) -> tuple[Tensor, Tensor]:
    wide = panels.float()
    scales = wide.abs().amax(dim=2).clamp(min=MIN_SCALE) / 127
    return (wide / scales.unsqueeze(2)).round().add(128).to(torch.uint8), scales


def _pack_int4(panels: Tensor) -> tuple[Tensor, Tensor]:
    groups = panels.float().view(len(panels), PANEL, -1, GROUP)
    scales = groups.abs().amax(dim=3).clamp(min=MIN_SCALE).to(torch.bfloat16)
    shares = (groups / scales.float().unsqueeze(3)).view(panels.shape).numpy()
    codes = np.zeros(shares.shape, dtype=np.uint8)
    for edge in torch.tensor([(low + high) / 2 for low, high in pairwise(NF4)]).tolist():
        codes += shares > edge  # NumPy's comparisons are five times as fast as torch's, and 20 times as bucketize
    low, high = torch.from_numpy(codes).view(torch.int32).view(len(codes), PANEL, -1, 2).unbind(dim=3)
    return low | high << 4, scales.transpose(1, 2)


def _expand_bf16(codes: Tensor, _scales: Tensor) -> Tensor:
    return codes.flatten(2)


def _expand_int8(codes: Tensor, scales: Tensor) -> Tensor:
    return (codes.flatten(2).float() - 128) * scales.unsqueeze(2)


def _expand_int4(codes: Tensor, scales: Tensor) -> Tensor:
    wide = (code_table().float() - 128)[torch.stack((codes & 15, codes >> 4), dim=3).long()]
    groups = wide.view(*codes.shape[:2], -1, GROUP)
    return (groups * (scales.float() / 127).transpose(1, 2).unsqueeze(3)).flatten(2)


PACK = {Format.BF16: _pack_bf16, Format.INT8: _pack_int8, Format.INT4: _pack_int4}
EXPAND = {Format.BF16: _expand_bf16, Format.INT8: _expand_int8, Format.INT4: _expand_int4}


@contextmanager
def _a_thread_for_each_core() -> Iterator[Executor]:
    """Threads that compute alone: those of OpenMP wait for one another, and for neighbours, at the end of each step."""
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores, "packing") as threads:
            yield threads
    finally:
        torch.set_num_threads(cores)


def _on_huge_pages(*shape: int) -> Tensor:
    """Words of 4 bytes, on huge pages where the system has them.

    A pass over all weights would take a walk through the page tables for each 4 KiB: in a virtual machine the
    layers of one to eight answers took 13 to 25 % longer without them.
    """
    made = torch.empty(shape, dtype=torch.int32)
    first = -(-made.data_ptr() // HUGE_PAGE) * HUGE_PAGE
    size = (made.data_ptr() + made.nbytes - first) // HUGE_PAGE * HUGE_PAGE
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), MADV_HUGEPAGE)
    return made
