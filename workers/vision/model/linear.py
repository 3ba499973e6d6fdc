"""Linear layers by how their weight lies in memory. All take (N, in) and give (N, out)."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

Linear = Callable[[Tensor], Tensor]
MakeLinear = Callable[[Tensor, Tensor | None], Linear]  #: from weight (out, in) and bias (out,)


@dataclass(frozen=True)
class PlainLinear:
    """The weight as released: (out, in)."""

    weight: Tensor
    bias: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`x` times the weight's transpose, plus the bias."""
        return functional.linear(x, self.weight, self.bias)
