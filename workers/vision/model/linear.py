"""Linear layers by how their weight lies in memory, with what comes before and after them.

    PlainLinear   as released, by torch
    PackedLinear  as `packed_weights` by `kernels/linear.c`; a gated one is the gates and the values of an MLP in one

Beside quantised weights the kernel quantises its inputs too. Its twin expands the weight and lets torch multiply.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.model.cpu_library import CpuLibrary, Format, Matrix
from workers.vision.model.norm import Normalise, rms_norm
from workers.vision.model.packed_weights import PANEL, code_table, expand, from_panels, pack, to_panels


class Linear(Protocol):
    """A layer with what stands before and after it."""

    def __call__(
        self, x: Tensor, norm: Tensor | None = None, eps: float = 0.0, residual: Tensor | None = None
    ) -> Tensor:
        """`residual` + the layer of `x` (..., in), which is normalised first where there is a weight for that.

        A gated layer gives silu(first half) * second half of its outputs.
        """
        ...


class MakeLinear(Protocol):
    """Makes a layer."""

    def __call__(self, weight: Tensor, bias: Tensor | None, *, gated: bool = False) -> Linear:
        """From weight (out, in) and bias (out,)."""
        ...


ALL_ROWS = 1 << 30


@dataclass(frozen=True)
class PlainLinear:
    """See the module."""

    weight: Tensor
    bias: Tensor | None = None
    gated: bool = False
    normalise: Normalise = rms_norm

    def __call__(
        self, x: Tensor, norm: Tensor | None = None, eps: float = 0.0, residual: Tensor | None = None
    ) -> Tensor:
        """As `Linear`."""
        y = functional.linear(x if norm is None else self.normalise(x, norm, eps), self.weight, self.bias)
        if self.gated:
            gate, value = y.chunk(2, dim=-1)
            y = functional.silu(gate) * value
        return y if residual is None else residual + y


class PackedLinear:
    """See the module. Without a library the twin computes."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        form: Format,
        library: CpuLibrary | None,
        *,
        gated: bool = False,
        most_rows: int = ALL_ROWS,
    ) -> None:
        self._shape, self._form, self._gated = tuple(weight.shape), form, gated
        self._library, self._most_rows = library, most_rows  # with more rows the twin is the faster one
        self._codes, self._scales = pack(weight, form, gated=gated)
        self._bias = bias if bias is None else to_panels(bias.unsqueeze(1), gated).flatten().contiguous()
        self._table = code_table().repeat(4)
        tensors = (self._codes, self._scales, self._table, self._bias)
        addresses = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        self._matrix = Matrix(*addresses, *self._shape, form, gated)

    def __call__(
        self, x: Tensor, norm: Tensor | None = None, eps: float = 0.0, residual: Tensor | None = None
    ) -> Tensor:
        """As `Linear`."""
        count = x.numel() // x.shape[-1]
        if self._library is None or count > self._most_rows:
            return self.twin(x, norm, eps, residual)
        if x.dtype != torch.bfloat16:  # what stands before and after the layer keeps the precision of its dtype
            normal = x if norm is None else rms_norm(x, norm, eps)
            y = self(normal.to(torch.bfloat16)).to(x.dtype)
            return y if residual is None else residual + y
        y = torch.empty(*x.shape[:-1], self._shape[0] // (1 + self._gated), dtype=torch.bfloat16)
        if count:
            self._library.linear(self._matrix, x.contiguous(), y, norm, eps, residual=residual)
        return y

    def twin(self, x: Tensor, norm: Tensor | None = None, eps: float = 0.0, residual: Tensor | None = None) -> Tensor:
        """As a call, in plain torch."""
        bias = None if self._bias is None else self._in_order(self._bias.view(-1, PANEL, 1)).flatten()
        return PlainLinear(self.expanded(x.dtype), bias, self._gated)(x, norm, eps, residual)

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) that the numbers stand for."""
        return self._in_order(expand(self._codes, self._scales, self._form).to(dtype))

    def _in_order(self, panels: Tensor) -> Tensor:
        return from_panels(panels, self._shape[0], self._gated)
