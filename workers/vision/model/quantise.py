"""int8 and 4-bit decoders through bitsandbytes, where it is installed (extra `quant`).

Only the decoder's layers: at 4 bits the 6B vision tower gives nonsense (the family's own documentation says so), and
embeddings and output layer matter more than they weigh.
"""

from typing import Any

import torch
from torch import Tensor, nn

from workers.vision.checkpoint.config import Quantised
from workers.vision.checkpoint.fields import CheckpointError

BYTES_PER_WEIGHT = {"int8": 1.0, "int4": 0.53}  #: scales included


class Quantiser:
    """Swaps the decoder's linear layers for quantised ones, and packs weights into them."""

    def __init__(self, kind: Quantised, dtype: torch.dtype) -> None:
        try:
            import bitsandbytes  # noqa: PLC0415 - an optional extra
        except ImportError as error:
            raise CheckpointError(f"{kind} needs bitsandbytes: pip install 'tileq[quant]'") from error
        self._library: Any = bitsandbytes
        self._kind = kind
        self._dtype = dtype

    def prepare(self, model: nn.Module) -> None:
        """Put empty quantised layers in place of the stock decoder's linear ones."""
        for layer in model.get_submodule("model.language_model.layers").children():
            for path, module in list(layer.named_modules()):
                if isinstance(module, nn.Linear):
                    layer.set_submodule(path, self._empty(module))

    def pack(self, old: nn.Parameter, tensor: Tensor) -> nn.Parameter:
        """Return the parameter that holds `tensor` in place of `old`; bitsandbytes quantises as it is moved."""
        if type(old) is nn.Parameter:
            return nn.Parameter(tensor, requires_grad=False)
        device, kind = tensor.device, self._library.nn
        if self._kind == "int8":
            packed = kind.Int8Params(tensor.cpu(), requires_grad=False, has_fp16_weights=False)
        else:
            packed = kind.Params4bit(
                tensor.cpu(), requires_grad=False, quant_type="nf4", module=getattr(old, "module", None)
            )
        moved: nn.Parameter = packed.to(device)
        return moved

    def _empty(self, linear: nn.Linear) -> nn.Module:
        has_bias = linear.bias is not None
        with torch.device("meta"):
            if self._kind == "int8":
                made = self._library.nn.Linear8bitLt(
                    linear.in_features, linear.out_features, bias=has_bias, has_fp16_weights=False
                )
            else:
                made = self._library.nn.Linear4bit(
                    linear.in_features, linear.out_features, bias=has_bias, compute_dtype=self._dtype, quant_type="nf4"
                )
        quantised: nn.Module = made.requires_grad_(False)
        return quantised
