"""Linear layers by how their weight lies in memory. All take (N, in) and give (N, out) of the same dtype.

    PlainLinear  as released
    CpuLinear    as released; a few rows go through `small_batch.c`, which reads it twice as fast as torch's own kernel
    Int8Linear   int8 with a scale a row
    Int4Linear   NF4 codes with a scale for 64 weights

A few rows are quantised too, inside the kernel, to int8 with a scale for 256 inputs, or 64 with 4-bit weights, and
multiplied as integers; more than 4 rows of the latter stay as they are, and the weight is expanded in the cache. Many
rows keep their dtype and are multiplied with the weight expanded for the moment: expanding is little beside that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.model.small_batch import SmallBatchKernels

Linear = Callable[[Tensor], Tensor]
MakeLinear = Callable[[Tensor, Tensor | None], Linear]  #: from weight (out, in) and bias (out,)

GROUP, BLOCK = 64, 128  # 4-bit weights that share a scale; weights whose codes lie together in 64 bytes
#: The quantiles of a normal distribution between -1 and 1: "NF4" of QLoRA, arXiv 2305.14314, appendix E.
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0),
    *(0.0795803, 0.1609302, 0.24611229, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)


@dataclass(frozen=True)
class PlainLinear:
    """See the module."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`x` times the weight's transpose, plus the bias."""
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class CpuLinear:
    """See the module."""

    weight: Tensor
    bias: Tensor | None
    kernels: SmallBatchKernels
    most_rows: int  #: for which the kernel is the faster one

    def __call__(self, x: Tensor) -> Tensor:
        """As `PlainLinear`."""
        if len(x) > self.most_rows:
            return functional.linear(x, self.weight, self.bias)
        return self.kernels.linear_bf16(x.contiguous(), self.weight, self.bias)


class Int8Linear:
    """See the module."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, kernels: SmallBatchKernels | None, most_rows: int = 0
    ) -> None:
        wide = weight.float()
        self.scales = wide.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.codes = (wide / self.scales.unsqueeze(1)).round().to(torch.int8)
        self._bias, self._kernels, self._most_rows = bias, kernels, most_rows

    def __call__(self, x: Tensor) -> Tensor:
        """As `PlainLinear`."""
        if self._kernels and len(x) <= self._most_rows:
            rows = x.to(torch.bfloat16).contiguous()
            return self._kernels.linear_int8(rows, self.codes, self.scales, self._bias).to(x.dtype)
        if not self._kernels and len(x) == 1 and x.dtype == torch.bfloat16:
            y: Tensor = torch._weight_int8pack_mm(x, self.codes, self.scales.to(x.dtype))
            return y if self._bias is None else y + self._bias
        return functional.linear(x, self.expanded(x.dtype), self._bias)

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """The weight that the codes stand for, (out, in)."""
        if self._kernels and dtype == torch.bfloat16:
            return self._kernels.expand_int8(self.codes, self.scales)
        return (self.codes.float() * self.scales.unsqueeze(1)).to(dtype)


class Int4Linear:
    """See the module."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, kernels: SmallBatchKernels | None, most_rows: int = 0
    ) -> None:
        self.values = torch.tensor(NF4).mul(127).round().to(torch.int8)  # integer products want integers
        groups = weight.float().view(len(weight), -1, GROUP)
        self.scales = groups.abs().amax(dim=2).clamp(min=1e-12).to(torch.bfloat16)
        edges = torch.tensor([(low + high) / 2 for low, high in pairwise(NF4)])
        codes = torch.bucketize(groups / self.scales.float().unsqueeze(2), edges).to(torch.uint8)
        low, high = codes.view(len(weight), -1, 2, GROUP).unbind(dim=2)
        self.pairs = (low | high << 4).flatten(1)
        self._bias, self._kernels, self._most_rows = bias, kernels, most_rows

    def __call__(self, x: Tensor) -> Tensor:
        """As `PlainLinear`."""
        if self._kernels and len(x) <= self._most_rows:
            rows = x.to(torch.bfloat16).contiguous()
            return self._kernels.linear_int4(rows, self.pairs, self.scales, self.values, self._bias).to(x.dtype)
        return functional.linear(x, self.expanded(x.dtype), self._bias)

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """The weight that the codes stand for, (out, in)."""
        if self._kernels and dtype == torch.bfloat16:
            return self._kernels.expand_int4(self.pairs, self.scales, self.values)
        pairs = self.pairs.view(len(self.pairs), -1, 1, GROUP)
        codes = torch.cat((pairs & 15, pairs >> 4), dim=2).view(*self.scales.shape, GROUP)
        wide = self.values.float()[codes.long()] * (self.scales.float() / 127).unsqueeze(2)
        expanded: Tensor = wide.flatten(1).to(dtype)
        return expanded
