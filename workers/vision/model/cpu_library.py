"""`kernels/*.c`, compiled for this machine when a model is loaded, and called through ctypes.

Compiling takes a few seconds. torch brings the OpenMP library that the kernels need. All tensors are on the CPU,
bfloat16 where nothing else is said, and contiguous but for the rows of queries, keys and values.
"""

import ctypes
from enum import IntEnum
from pathlib import Path

import torch
from torch import Tensor

from workers.vision.compiler import X86_64_V3, compiled_library
from workers.vision.model.norm import Norm
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables, Segment
from workers.vision.model.rotary import KV, HeadNorms, RotaryTable

FOLDER = Path(__file__).with_name("kernels")
SOURCES = (FOLDER / "linear.c", FOLDER / "attention.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-Wno-psabi")
#: Compiled into the container images, the fastest first; there is none beside a checkout.
PREBUILT = (
    (FOLDER / "avx512.so", X86_64_V3 | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16"}),
    (FOLDER / "avx2.so", X86_64_V3),
)
HEAD_MULTIPLE = 32  #: that the width of a head has to be of


class Format(IntEnum):
    """How a weight is stored; the layouts are those of `linear.c`."""

    BF16 = 0
    INT8 = 1
    INT4 = 2


class Matrix(ctypes.Structure):
    """`matrix` of `linear.c`. Holds addresses only: whoever makes it keeps the tensors."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "scales", "table", "bias", "layer_scale")),
        *((name, ctypes.c_long) for name in ("outputs", "inputs")),
        *((name, ctypes.c_int32) for name in ("format", "activation")),
    )


class CNorm(ctypes.Structure):
    """`norm` of `linear.c`."""

    _fields_ = (("weight", ctypes.c_void_p), ("bias", ctypes.c_void_p), ("eps", ctypes.c_float))


class Cache(ctypes.Structure):
    """`cache` of `attention.c`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("keys", "values", "table")),
        *((name, ctypes.c_long) for name in ("stride", "head", "page")),
    )


class CpuLibrary:
    """The functions of the library."""

    def __init__(self) -> None:
        """Compile and load. Raises `CompilerUnavailable` or `OSError`."""
        at, size, real = ctypes.c_void_p, ctypes.c_long, ctypes.c_float
        loaded = ctypes.CDLL(f"/proc/self/fd/{compiled_library(SOURCES, FLAGS, PREBUILT)}")
        self._linear, self._rotate = loaded.linear, loaded.rotate_and_store
        self._rows, self._prompt = loaded.attend_rows, loaded.attend_prompt
        self._linear.argtypes = [at, at, at, at, at, size]
        self._rotate.argtypes = [*[at] * 6, real, at, at, *[size] * 4]
        self._rows.argtypes = [at, size, *[at] * 5, *[size] * 6]
        self._prompt.argtypes = [at, size, at, at, *[size] * 5]

    def linear(self, matrix: Matrix, x: Tensor, y: Tensor, norm: Norm | None, residual: Tensor | None) -> None:
        """Write what `Linear` gives for `x` to `y`."""
        before = CNorm(_at(norm.weight), _at(norm.bias), norm.eps) if norm else CNorm()
        inputs = _at(x), ctypes.byref(before), _at(residual)
        self._linear(ctypes.byref(matrix), *inputs, _at(y), x.numel() // x.shape[-1])

    def rotate_and_store(self, qkv: Tensor, rotary: RotaryTable, norms: HeadNorms | None, eps: float, kv: KV) -> Tensor:
        """`Rotate`, in place."""
        (q_norm, k_norm), (keys, values, slots) = norms or (None, None), kv
        inputs = _at(qkv), _at(slots), _at(rotary.cos), _at(rotary.sin), _at(q_norm), _at(k_norm)
        heads = qkv.shape[1] - 2 * keys.shape[1]
        self._rotate(*inputs, eps, _at(keys), _at(values), len(qkv), heads, *keys.shape[1:])
        return qkv[:, :heads]

    def attend_rows(self, queries: Tensor, keys: Tensor, values: Tensor, tables: DecodeTables) -> Tensor:
        """`AttendRows`."""
        y = torch.empty(queries.shape, dtype=torch.bfloat16)
        inputs = (
            _at(queries),
            queries.stride(0),
            _at(keys),
            _at(values),
            _at(tables.pages),
            _at(tables.contexts),
            _at(y),
        )
        self._rows(*inputs, *queries.shape[:2], *keys.shape[1:], tables.pages.shape[1], PAGE_TOKENS)
        return y

    def attend_prompt(self, queries: Tensor, keys: Tensor, values: Tensor, segment: Segment) -> Tensor:
        """`AttendPrompt`."""
        y = torch.empty(queries.shape, dtype=torch.bfloat16)
        self._attend(queries, keys, values, y, segment.table(keys.device), segment.context)
        return y

    def attend_tiles(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """`AttendTiles`."""
        y = torch.empty(queries.shape, dtype=torch.bfloat16)
        for tile in zip(queries, keys, values, y, strict=True):
            self._attend(*tile)
        return y

    def _attend(  # noqa: PLR0917 - what is read and written, and of a prompt where
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        y: Tensor,
        table: Tensor | None = None,
        context: int | None = None,
    ) -> None:
        rows, heads, head = queries.shape
        cache = Cache(_at(keys), _at(values), _at(table), keys.stride(0), head, PAGE_TOKENS)
        sizes = rows, context or rows, heads, keys.shape[1], context is not None
        self._prompt(_at(queries), queries.stride(0), ctypes.byref(cache), _at(y), *sizes)


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
