"""`python -m tests.unit.vision.model.kernel_process interpret|compile`: the Triton kernel without a GPU, as JSON.

A process of its own, because Triton decides when it is imported whether it interprets.
"""

import json
import sys

import torch

from workers.vision.model.attention import attend_padded
from workers.vision.model.fast_path import deviation_of
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables
from workers.vision.model.paged_attention import BLOCK, attend_paged, join_kernel, partial_kernel, parts_for

CONTEXTS = (1, 17, 64, 130)
#: Query heads, heads of keys and their width.
SHAPES = {
    "Mini 2B": (16, 8, 128),
    "Mini 4B, no groups, 96 wide": (4, 4, 96),
    "V1.5, six queries for one": (12, 2, 128),
    "Qwen2 0.5B, seven for one": (14, 2, 64),
    "narrower than a tensor core": (4, 2, 8),
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor, DecodeTables]


def rows(heads: int, kv_heads: int, head: int, dtype: torch.dtype) -> Rows:
    """Queries as the decoder hands them over, a view of rows in which keys follow them, and pages in no order."""
    random = torch.Generator().manual_seed(head)
    longest = -(-max(CONTEXTS) // PAGE_TOKENS)
    pages = torch.randperm(len(CONTEXTS) * longest, generator=random).view(len(CONTEXTS), longest)
    keys, values = (torch.randn(pages.numel() * PAGE_TOKENS, kv_heads, head, generator=random).to(dtype) for _ in "kv")
    queries = torch.randn(len(CONTEXTS), heads + kv_heads, head, generator=random).to(dtype)[:, :heads]
    return queries, keys, values, DecodeTables(torch.arange(len(CONTEXTS)), pages, torch.tensor(CONTEXTS))


def spoil(keys: torch.Tensor, values: torch.Tensor, tables: DecodeTables) -> None:
    """Write NaN wherever no context reaches."""
    behind = torch.ones(len(keys), dtype=torch.bool)
    for row, context in enumerate(CONTEXTS):
        places = torch.arange(context)
        behind[tables.pages[row, places // PAGE_TOKENS] * PAGE_TOKENS + places % PAGE_TOKENS] = False
    keys[behind], values[behind] = torch.nan, torch.nan


def interpret() -> dict[str, dict[str, float]]:
    """Deviations from plain torch, by dtype and shape, what lies behind the contexts being NaN."""
    found: dict[str, dict[str, float]] = {}
    for name, dtype in DTYPES.items():
        for shape, sizes in SHAPES.items():
            queries, keys, values, tables = rows(*sizes, dtype)
            expected = attend_padded(queries, keys, values, tables)
            spoil(keys, values, tables)
            deviation = deviation_of(attend_paged(queries, keys, values, tables), expected)
            found.setdefault(name, {})[shape] = deviation
    found["parts"] = {
        f"{programs}, {long}": parts_for(programs, long) for programs in (8, 512) for long in (200, 10496)
    }
    return found


def compile_kernels() -> dict[str, int]:
    """Bytes of shared memory that a program of the kernel takes, by capability and dtype, once ptxas accepts it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    buffers = dict.fromkeys(("sums", "maxima", "totals"), "*fp32")
    constants = {"HEAD": 96, "HEAD_COLUMNS": 128, "PARTS": 4}
    more = {"GROUP": 2, "GROUP_ROWS": 16, "PAGE": PAGE_TOKENS, "SPAN": BLOCK, "WIDEN": False}
    tables = dict.fromkeys(("pages", "contexts"), "*i64") | {"scale": "fp32"}
    strides = dict.fromkeys(("query_stride", "head_stride", "table_stride"), "i32")
    found = {}
    for capability, dtypes in ((80, ("bf16", "fp32")), (90, ("bf16",))):
        target = GPUTarget("cuda", capability, 32)
        for dtype in dtypes:
            pools = dict.fromkeys(("queries", "keys", "values"), f"*{dtype}")
            both = constants | more
            types = pools | buffers | tables | strides | dict.fromkeys(both, "constexpr")
            partial = compile(ASTSource(partial_kernel, types, both), target=target)
            types = buffers | {"out": f"*{dtype}"} | dict.fromkeys(constants, "constexpr")
            joined = compile(ASTSource(join_kernel, types, constants), target=target)
            assert partial.asm["cubin"] and joined.asm["cubin"]  # noqa: PT018
            found[f"{capability}, {dtype}"] = int(partial.metadata.shared)
    return found


if __name__ == "__main__":
    print(json.dumps(interpret() if sys.argv[1] == "interpret" else compile_kernels()))
