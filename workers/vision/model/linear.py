"""Linear layers by how their weight lies in memory, with what comes before and after them.

    PlainLinear   as released, by torch
    PackedLinear  bfloat16, int8 with a scale a row or NF4 codes with a scale for 64 weights, in the order in which
                  `kernels/linear.c` reads them once; a gated one is the gates and the values of an MLP in one

Beside quantised weights the kernel quantises its inputs too. Its twin expands the weight and lets torch multiply.
"""

import ctypes
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.model.cpu_library import CpuLibrary, Format, Matrix
from workers.vision.model.norm import Norm, Normalise, rms_norm


class Activation(IntEnum):
    """What a layer's outputs go through."""

    NONE = 0
    GATED = 1  #: silu(first half) * second half
    GELU = 2


class Linear(Protocol):
    """A layer with what stands before and after it."""

    def __call__(self, x: Tensor, norm: Norm | None = None, residual: Tensor | None = None) -> Tensor:
        """`residual` + the layer of `x` (..., in), which goes through the norm first if there is one."""
        ...


class MakeLinear(Protocol):
    """Makes a layer."""

    def __call__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        activation: Activation = Activation.NONE,
        scale: Tensor | None = None,
    ) -> Linear:
        """From weight (out, in), bias (out,), and what the outputs are multiplied with where a residual is added."""
        ...


PANEL, LANES, GROUP = 32, 16, 64  # outputs that lie together, half of them, 4-bit weights that share a scale
#: What `in` has to be a multiple of.
MULTIPLES = {Format.BF16: LANES, Format.INT8: GROUP, Format.INT4: GROUP}
#: The quantiles of a normal distribution between -1 and 1: "NF4" of QLoRA, arXiv 2305.14314, appendix E.
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.24611229, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
ALL_ROWS = 1 << 30
MADV_HUGEPAGE = 14  # of asm-generic/mman-common.h
HUGE_PAGE = 2 << 20


@dataclass(frozen=True)
class PlainLinear:
    """See the module."""

    weight: Tensor
    bias: Tensor | None = None
    activation: Activation = Activation.NONE
    scale: Tensor | None = None
    normalise: Normalise = rms_norm

    def __call__(self, x: Tensor, norm: Norm | None = None, residual: Tensor | None = None) -> Tensor:
        """As `Linear`."""
        y = functional.linear(norm(x, self.normalise) if norm else x, self.weight, self.bias)
        if self.activation is Activation.GATED:
            gate, value = y.chunk(2, dim=-1)
            y = functional.silu(gate) * value
        elif self.activation is Activation.GELU:
            y = functional.gelu(y)
        return _added(y, residual, self.scale)


def _added(y: Tensor, residual: Tensor | None, scale: Tensor | None) -> Tensor:
    if residual is None:
        return y
    return residual + y if scale is None else torch.addcmul(residual, y, scale)


class PackedLinear:
    """See the module. Without a library the twin computes."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        form: Format,
        library: CpuLibrary | None,
        *,
        activation: Activation = Activation.NONE,
        scale: Tensor | None = None,
        most_rows: int = ALL_ROWS,
    ) -> None:
        gated = activation is Activation.GATED
        self._shape, self._form, self._activation, self._gated = tuple(weight.shape), form, activation, gated
        self._library, self._most_rows = library, most_rows  # with more rows the twin is the faster one
        panels = _panels(weight, gated)
        self._bias = bias if bias is None else _panels(bias.unsqueeze(1), gated).flatten().contiguous()
        self._scale = scale if scale is None else _panels(scale.unsqueeze(1), gated=False).flatten().contiguous()
        self._weight, self._scales = PACK[form](panels)
        # 4-bit codes stand for whole 127ths, because integer products want integers.
        self._table = torch.tensor(NF4).mul(127).round().add(128).to(torch.uint8).repeat(4)
        tensors = (self._weight, self._scales, self._table, self._bias, self._scale)
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        self._matrix = Matrix(*addresses, *self._shape, form, activation)

    def __call__(self, x: Tensor, norm: Norm | None = None, residual: Tensor | None = None) -> Tensor:
        """As `Linear`."""
        count = x.numel() // x.shape[-1]
        if self._library is None or count > self._most_rows:
            return self.twin(x, norm, residual)
        if x.dtype != torch.bfloat16:  # what stands before and after the layer keeps the precision of its dtype
            y = self((norm(x) if norm else x).to(torch.bfloat16)).to(x.dtype)
            return _added(y, residual, self._unpadded_scale)
        y = torch.empty(*x.shape[:-1], self._shape[0] // (1 + self._gated), dtype=torch.bfloat16)
        if count:
            self._library.linear(self._matrix, x.contiguous(), y, norm, residual)
        return y

    def twin(self, x: Tensor, norm: Norm | None = None, residual: Tensor | None = None) -> Tensor:
        """As a call, in plain torch."""
        bias = None if self._bias is None else self._in_order(self._bias.view(-1, PANEL, 1)).flatten()
        plain = PlainLinear(self.expanded(x.dtype), bias, self._activation, self._unpadded_scale)
        return plain(x, norm, residual)

    @property
    def _unpadded_scale(self) -> Tensor | None:
        return None if self._scale is None else self._scale[: self._shape[0]]

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) that the numbers stand for."""
        return self._in_order(EXPAND[self._form](self._weight, self._scales, self._table).to(dtype))

    def _in_order(self, panels: Tensor) -> Tensor:
        """(panels, 32, n) as (out, n)."""
        if self._gated:
            panels = panels.view(len(panels), 2, LANES, -1).transpose(0, 1)
        return panels.reshape(-1, panels.shape[-1])[: self._shape[0]]


def _panels(weight: Tensor, gated: bool) -> Tensor:
    """(out, in) as (panels, 32, in), filled up with zeros; of a gated one each panel has 16 gates and their values."""
    if gated:
        weight = weight.view(2, -1, LANES, weight.shape[1]).transpose(0, 1).flatten(0, 2)
    if missing := -len(weight) % PANEL:
        weight = torch.cat((weight, weight.new_zeros(missing, weight.shape[1])))
    return weight.view(-1, PANEL, weight.shape[1])


def _pack_bf16(panels: Tensor) -> tuple[Tensor, None]:
    return _laid_out(panels.to(torch.bfloat16), 2), None


def _pack_int8(panels: Tensor) -> tuple[Tensor, Tensor]:
    wide = panels.float()
    scales = wide.abs().amax(dim=2).clamp(min=1e-12) / 127
    codes = (wide / scales.unsqueeze(2)).round() + 128
    return _laid_out(codes.to(torch.uint8), 4), scales.flatten()


def _pack_int4(panels: Tensor) -> tuple[Tensor, Tensor]:
    groups = panels.float().view(len(panels), PANEL, -1, GROUP)
    scales = groups.abs().amax(dim=3).clamp(min=1e-12).to(torch.bfloat16)
    edges = torch.tensor([(low + high) / 2 for low, high in pairwise(NF4)])
    codes = torch.bucketize(groups / scales.float().unsqueeze(3), edges, out_int32=True).to(torch.uint8)
    low, high = codes.view(len(panels), PANEL, -1, 2, 4).unbind(dim=3)
    return _laid_out((low | high << 4).flatten(2), 4), scales.transpose(1, 2).contiguous()


def _expand_bf16(weight: Tensor, _scales: Tensor | None, _table: Tensor) -> Tensor:
    return weight.transpose(1, 2).flatten(2)


def _expand_int8(weight: Tensor, scales: Tensor, _table: Tensor) -> Tensor:
    return (weight.transpose(1, 2).flatten(2).float() - 128) * scales.view(-1, PANEL, 1)


def _expand_int4(weight: Tensor, scales: Tensor, table: Tensor) -> Tensor:
    pairs = weight.transpose(1, 2)
    codes = torch.stack((pairs & 15, pairs >> 4), dim=3).flatten(2)
    wide: Tensor = (table.float() - 128)[codes.long()]
    wide = wide.view(*wide.shape[:2], -1, GROUP)
    return (wide * (scales.float() / 127).transpose(1, 2).unsqueeze(3)).flatten(2)


PACK: dict[Format, Any] = {Format.BF16: _pack_bf16, Format.INT8: _pack_int8, Format.INT4: _pack_int4}
EXPAND: dict[Format, Any] = {Format.BF16: _expand_bf16, Format.INT8: _expand_int8, Format.INT4: _expand_int4}


def _laid_out(panels: Tensor, together: int) -> Tensor:
    """(panels, 32, in) as (panels, in / n, 32, n) with n `together`, on huge pages where the system has them.

    A pass over all weights would take a walk through the page tables for each 4 KiB: in a virtual machine the
    layers of one to eight answers took 13 to 25 % longer without them.
    """
    parts = panels.view(*panels.shape[:2], -1, together).transpose(1, 2)
    made = torch.empty(parts.shape, dtype=parts.dtype)
    first = -(-made.data_ptr() // HUGE_PAGE) * HUGE_PAGE
    size = (made.data_ptr() + made.nbytes - first) // HUGE_PAGE * HUGE_PAGE
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), MADV_HUGEPAGE)
    return made.copy_(parts)
