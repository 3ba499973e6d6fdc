"""Linear layers by how their weight lies in memory, with what comes before and after them.

    PlainLinear   as released, by torch
    PackedLinear  as `packed_weights` by `kernels/linear.c`; a gated one is the gates and the values of an MLP in one

Beside quantised weights the kernel quantises its inputs too. Its twin expands the weight and lets torch multiply.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.model.cpu_library import CpuLibrary, Format, Matrix
from workers.vision.model.norm import Norm, Normalise, rms_norm
from workers.vision.model.packed_weights import PANEL, code_table, expand, from_panels, pack, to_panels


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


ALL_ROWS = 1 << 30


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
        self._codes, self._scales = pack(weight, form, gated=gated)
        self._bias = bias if bias is None else to_panels(bias.unsqueeze(1), gated).flatten().contiguous()
        self._scale = scale if scale is None else to_panels(scale.unsqueeze(1), gated=False).flatten().contiguous()
        self._table = code_table().repeat(4)
        tensors = (self._codes, self._scales, self._table, self._bias, self._scale)
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
        return self._in_order(expand(self._codes, self._scales, self._form).to(dtype))

    def _in_order(self, panels: Tensor) -> Tensor:
        return from_panels(panels, self._shape[0], self._gated)
