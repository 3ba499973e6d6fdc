"""Causal attention of packed rows over paged keys and values.

Segments of several rows, the prompts, are computed one by one. Those of one row, the running answers, are computed at
once where there is a way: the kernel of `attention.c` on a CPU, padding to the longest on a GPU, where a call costs
more than that. On a CPU without the kernel padding would cost more than the calls.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.model.kv_pages import KVPages, by_page, read
from workers.vision.model.packed_batch import DecodeTables, PackedBatch, Segment

#: Takes (B, heads, head) queries, pools of keys and values, and whose they are; gives (B, heads, head).
AttendRows = Callable[[Tensor, Tensor, Tensor, DecodeTables], Tensor]
#: Takes the (rows, heads, head) queries of a segment, and the pools; gives (rows, heads, head).
AttendPrompt = Callable[[Tensor, Tensor, Tensor, Segment], Tensor]


def attend(
    queries: Tensor,
    batch: PackedBatch,
    pages: KVPages,
    layer: int,
    attend_rows: AttendRows | None = None,
    *,
    attend_prompt: AttendPrompt | None = None,
) -> Tensor:
    """(N, heads, head) queries to (N, heads, head) outputs; the rows' own keys and values are in `pages` already."""
    if attend_rows is None and (batch.tables or queries.device.type != "cpu"):
        attend_rows = attend_padded
    if attend_rows and not batch.prefills:
        return attend_rows(queries, pages.keys[layer], pages.values[layer], batch.decode_tables)
    out = torch.empty_like(queries)
    segments = list(batch.segments)
    if attend_rows and batch.decodes:
        tables, segments = batch.decode_tables, batch.prefills
        out[tables.rows] = attend_rows(queries[tables.rows], pages.keys[layer], pages.values[layer], tables)
    for segment in segments:
        rows = slice(segment.start, segment.start + segment.rows)
        out[rows] = (attend_prompt or attend_segment)(queries[rows], pages.keys[layer], pages.values[layer], segment)
    return out


def attend_padded(queries: Tensor, keys: Tensor, values: Tensor, tables: DecodeTables) -> Tensor:
    """`AttendRows` in plain torch, over as many positions as the longest context has."""
    # What lies behind a context may be NaN, left by a request that broke, and no weight of 0 hides that.
    behind = tables.hidden.view(len(queries), -1, 1, 1)
    gathered = (by_page(pool)[tables.pages].flatten(1, 2).masked_fill(behind, 0) for pool in (keys, values))
    found_keys, found_values = (part.transpose(1, 2) for part in gathered)  # (B, kv_heads, positions, head)
    grouped = queries.view(len(queries), keys.shape[1], -1, queries.shape[-1])
    mask = ~tables.hidden.view(len(queries), 1, 1, -1)
    return functional.scaled_dot_product_attention(grouped, found_keys, found_values, attn_mask=mask).reshape(
        queries.shape
    )


#: Makes (rows, context) for the rows of a prompt whose beginning was computed before, on a device.
Bias = Callable[[Segment, torch.device], Tensor]


def lower_right(segment: Segment, device: torch.device) -> Tensor:
    """`Bias` as numbers: row r sees the context up to its own position."""
    last = torch.arange(segment.context - segment.rows, segment.context, device=device)
    return torch.arange(segment.context, device=device) <= last.unsqueeze(1)


def attend_segment(queries: Tensor, keys: Tensor, values: Tensor, segment: Segment) -> Tensor:
    """`AttendPrompt` in plain torch."""
    return attend_biased(queries, keys, values, segment, lower_right)


def attend_biased(queries: Tensor, keys: Tensor, values: Tensor, segment: Segment, bias: Bias) -> Tensor:
    """`AttendPrompt`, with `bias` where the segment is not the whole context."""
    keys, values = (read(pool, segment).transpose(0, 1).unsqueeze(0) for pool in (keys, values))
    if segment.rows == 1:
        # The queries of a group see the same positions, so they are the rows of one attention: (1, kv, group, head).
        grouped = queries.view(1, keys.shape[1], -1, queries.shape[-1])
        return functional.scaled_dot_product_attention(grouped, keys, values).view(1, -1, queries.shape[-1])
    fresh = segment.rows == segment.context
    out = functional.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys,
        values,
        attn_mask=None if fresh else bias(segment, queries.device),
        is_causal=fresh,
        enable_gqa=True,
    )
    return out.squeeze(0).transpose(0, 1)
