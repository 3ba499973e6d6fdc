"""`small_batch.c`, compiled for this machine when a model is loaded, and called through ctypes.

Compiling takes two seconds and needs a C compiler (`workers/vision/compiler.py`). Without one, what the container image
has compiled for this kind of processor is loaded; torch brings the OpenMP library that it needs.
"""

import ctypes
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from workers.vision.compiler import X86_64_V3, CompilerUnavailable, compile_library, processor_flags
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables

SOURCE = Path(__file__).with_suffix(".c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
#: Compiled into the container images, the fastest first, and what of the processor each needs; none beside a checkout.
PREBUILT = (
    ("small_batch.avx512.so", {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "fma"}),
    ("small_batch.avx2.so", X86_64_V3),
)
TILE_INPUTS, MIN_OUTPUTS = 32, 4  # `in` is a multiple of the first, `out` no less than the second


class KernelsUnavailable(Exception):
    """The kernels can't be compiled or loaded here; the message says why."""


class SmallBatchKernels:
    """Linear layers and attention for a few bfloat16 rows. Tensors are contiguous and of the shapes that are named."""

    def __init__(self) -> None:
        """Compile and load. Raises `KernelsUnavailable`."""
        pointer, size = ctypes.c_void_p, ctypes.c_long
        self._memory = torch.empty(0, dtype=torch.bfloat16)
        self._library = _loaded()
        self._library.linear_bf16.argtypes = [pointer] * 4 + [size] * 3
        self._library.linear_int8.argtypes = [pointer] * 5 + [size] * 3
        self._library.linear_int4.argtypes = [pointer] * 6 + [size] * 3
        self._library.expand_int8.argtypes = [pointer] * 3 + [size] * 2
        self._library.expand_int4.argtypes = [pointer] * 4 + [size] * 2
        self._library.attend_rows.argtypes = [pointer] * 6 + [size] * 6

    def linear_bf16(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`weight` (out, in) bfloat16."""
        y = _output(x, len(weight))
        self._library.linear_bf16(_at(weight), _at(x), _at(bias), _at(y), *weight.shape, len(x))
        return y

    def linear_int8(self, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
        """`codes` (out, in) int8, `scales` (out,) float32."""
        y = _output(x, len(codes))
        self._library.linear_int8(_at(codes), _at(scales), _at(x), _at(bias), _at(y), *codes.shape, len(x))
        return y

    def linear_int4(self, x: Tensor, pairs: Tensor, scales: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """`pairs` (out, in / 2) uint8, `scales` (out, in / 64) bfloat16, `values` (16,) int8."""
        y = _output(x, len(pairs))
        sizes = len(pairs), 2 * pairs.shape[1], len(x)
        self._library.linear_int4(_at(pairs), _at(scales), _at(values), _at(x), _at(bias), _at(y), *sizes)
        return y

    def expand_int8(self, codes: Tensor, scales: Tensor) -> Tensor:
        """(out, in) bfloat16 of what `linear_int8` takes; valid until the next expansion."""
        y = self._expanded(*codes.shape)
        self._library.expand_int8(_at(codes), _at(scales), _at(y), *codes.shape)
        return y

    def expand_int4(self, pairs: Tensor, scales: Tensor, values: Tensor) -> Tensor:
        """(out, in) bfloat16 of what `linear_int4` takes; valid until the next expansion."""
        y = self._expanded(len(pairs), 2 * pairs.shape[1])
        self._library.expand_int4(_at(pairs), _at(scales), _at(values), _at(y), *y.shape)
        return y

    def _expanded(self, rows: int, columns: int) -> Tensor:
        """Memory for a weight, the same each time: fresh pages would take longer than filling them."""
        if self._memory.numel() < rows * columns:
            self._memory = torch.empty(rows * columns, dtype=torch.bfloat16)
        return self._memory[: rows * columns].view(rows, columns)

    def attend_rows(self, queries: Tensor, keys: Tensor, values: Tensor, tables: DecodeTables) -> Tensor:
        """(B, heads, head) over pools of (slots, kv_heads, head), all bfloat16; `head` a multiple of 32."""
        queries = queries.contiguous()
        y = torch.empty_like(queries)
        inputs = _at(queries), _at(keys), _at(values), _at(tables.pages), _at(tables.contexts), _at(y)
        sizes = *queries.shape[:2], *keys.shape[1:], tables.pages.shape[1], PAGE_TOKENS
        self._library.attend_rows(*inputs, *sizes)
        return y


def _loaded() -> ctypes.CDLL:
    try:
        return _compiled()
    except KernelsUnavailable:
        flags = processor_flags()
        fitting = [SOURCE.with_name(name) for name, needed in PREBUILT if needed <= flags]
        for library in filter(Path.exists, fitting):
            return ctypes.CDLL(str(library))
        raise


def _compiled() -> ctypes.CDLL:
    with TemporaryDirectory(prefix="tileq-kernels-") as folder:
        library = Path(folder) / "small_batch.so"
        try:
            compile_library(SOURCE, FLAGS, library)
            return ctypes.CDLL(str(library))
        except (CompilerUnavailable, OSError) as error:
            raise KernelsUnavailable(str(error)) from error


def _output(x: Tensor, columns: int) -> Tensor:
    return torch.empty(len(x), columns, dtype=torch.bfloat16)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
