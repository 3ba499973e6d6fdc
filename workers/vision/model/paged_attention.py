"""Attention of one query row a sequence over paged keys and values, as a Triton kernel for GPUs.

Flash-decoding (Dao et al., 2023): a program computes the queries of one group over a part of one context with an online
softmax, so that a single long context fills the device too; a second kernel joins the parts. Triton comes with torch's
CUDA builds, so this module is imported on a GPU only. The twin in plain torch is `attention.attend_padded`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables

BLOCK = 64  # positions that a program reads at once
MIN_GROUP = 16  # rows of the smallest matrix product of a tensor core
PROGRAMS = 512  # about four for each multiprocessor of an H100: contexts are split until there are so many
MAX_PARTS = 32


@triton.jit
def partial_kernel(
    queries,
    keys,
    values,
    pages,
    contexts,
    sums,
    maxima,
    totals,
    scale,
    query_stride,
    head_stride,
    table_stride,
    GROUP: tl.constexpr,
    GROUP_ROWS: tl.constexpr,
    HEAD: tl.constexpr,
    HEAD_COLUMNS: tl.constexpr,
    PAGE: tl.constexpr,
    SPAN: tl.constexpr,
    PARTS: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Write the weighted sum of the values of one part of a context, the largest score and the sum of weights."""
    row, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_heads = tl.num_programs(1)
    context = tl.load(contexts + row).to(tl.int32)
    length = tl.cdiv(tl.cdiv(context, SPAN), PARTS) * SPAN
    begin = part * length
    end = tl.minimum(begin + length, context)
    members = tl.arange(0, GROUP_ROWS)
    columns = tl.arange(0, HEAD_COLUMNS)
    inside = (members < GROUP)[:, None] & (columns < HEAD)[None, :]
    heads = kv_head * GROUP + members
    query_at = queries + row.to(tl.int64) * query_stride + heads[:, None] * head_stride + columns[None, :]
    query = tl.load(query_at, mask=inside, other=0.0)
    largest = tl.full((GROUP_ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP_ROWS,), tl.float32)
    weighted = tl.zeros((GROUP_ROWS, HEAD_COLUMNS), tl.float32)
    for start in range(begin, end, SPAN):
        positions = start + tl.arange(0, SPAN)
        seen = positions < end
        page = tl.load(pages + row.to(tl.int64) * table_stride + positions // PAGE, mask=seen, other=0)
        slots = page.to(tl.int64) * PAGE + positions % PAGE
        offsets = (slots[:, None] * kv_heads + kv_head) * HEAD + columns[None, :]
        # What lies behind the context may be NaN, so it is not read: a weight of 0 would not hide it.
        loaded = seen[:, None] & (columns < HEAD)[None, :]
        found = tl.load(keys + offsets, mask=loaded, other=0.0)
        if WIDEN:
            scores = tl.dot(query.to(tl.float32), tl.trans(found.to(tl.float32)), input_precision="ieee") * scale
        else:
            scores = tl.dot(query, tl.trans(found), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        raised = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp(scores - raised[:, None])
        shrink = tl.exp(largest - raised)
        total = total * shrink + tl.sum(weights, axis=1)
        content = tl.load(values + offsets, mask=loaded, other=0.0)
        rounded = weights.to(content.dtype)
        if WIDEN:
            added = tl.dot(rounded.to(tl.float32), content.to(tl.float32), input_precision="ieee")
        else:
            added = tl.dot(rounded, content, input_precision="ieee")
        weighted = weighted * shrink[:, None] + added
        largest = raised
    place = (row.to(tl.int64) * kv_heads * GROUP + heads) * PARTS + part
    tl.store(sums + place[:, None] * HEAD + columns[None, :], weighted, mask=inside)
    tl.store(maxima + place, largest, mask=members < GROUP)
    tl.store(totals + place, total, mask=members < GROUP)


@triton.jit
def join_kernel(
    sums,
    maxima,
    totals,
    out,
    HEAD: tl.constexpr,
    HEAD_COLUMNS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Write one head's output from its parts. A part behind the context has the maximum -inf, so the weight 0."""
    place = tl.program_id(0).to(tl.int64)
    parts = tl.arange(0, PARTS)
    columns = tl.arange(0, HEAD_COLUMNS)
    inside = columns < HEAD
    maximum = tl.load(maxima + place * PARTS + parts)
    shrink = tl.exp(maximum - tl.max(maximum, axis=0))
    total = tl.sum(tl.load(totals + place * PARTS + parts) * shrink, axis=0)
    at = sums + (place * PARTS + parts)[:, None] * HEAD + columns[None, :]
    weighted = tl.load(at, mask=inside[None, :], other=0.0)
    joined = tl.sum(weighted * shrink[:, None], axis=0) / total
    tl.store(out + place * HEAD + columns, joined.to(out.dtype.element_ty), mask=inside)


def attend_paged(queries: Tensor, keys: Tensor, values: Tensor, tables: DecodeTables) -> Tensor:
    """`AttendRows`: bf16, float16 or float32, any width of a head and any number of query heads for one of keys."""
    rows, heads, head = queries.shape
    if queries.stride(2) != 1:
        queries = queries.contiguous()
    kv_heads = keys.shape[1]
    parts = parts_for(rows * kv_heads, tables.pages.shape[1] * PAGE_TOKENS)
    columns = triton.next_power_of_2(max(head, MIN_GROUP))
    sums = torch.empty((rows, heads, parts, head), dtype=torch.float32, device=queries.device)
    maxima, totals = (sums.new_empty((rows, heads, parts)) for _ in range(2))
    out = torch.empty((rows, heads, head), dtype=queries.dtype, device=queries.device)
    with torch.cuda.device_of(queries):  # Triton launches on the current device, whatever its arguments lie on
        partial_kernel[(rows, kv_heads, parts)](
            *(queries, keys, values, tables.pages, tables.contexts, sums, maxima, totals),
            head**-0.5,
            queries.stride(0),
            queries.stride(1),
            tables.pages.stride(0),
            GROUP=heads // kv_heads,
            GROUP_ROWS=max(MIN_GROUP, triton.next_power_of_2(heads // kv_heads)),
            HEAD=head,
            HEAD_COLUMNS=columns,
            PAGE=PAGE_TOKENS,
            SPAN=BLOCK,
            PARTS=parts,
            WIDEN=triton.knobs.runtime.interpret,  # its products of bf16 would be those of the bits
        )
        join_kernel[(rows * heads,)](sums, maxima, totals, out, HEAD=head, HEAD_COLUMNS=columns, PARTS=parts)
    return out


def parts_for(programs: int, positions: int) -> int:
    """Into how many parts each context is split, a power of two: more where few rows would leave the device idle."""
    wanted = min(MAX_PARTS, PROGRAMS // programs, -(-positions // BLOCK))
    return 1 << max(0, wanted.bit_length() - 1)
