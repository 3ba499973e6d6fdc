"""Causal attention of packed rows over paged keys and values.

On a CPU each segment is computed by itself: a run of pages is read in place, and nothing is padded. Elsewhere a call
costs more than the padding, so all segments of one row, the running answers, are computed at once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PackedBatch, Segment


def attend(queries: Tensor, batch: PackedBatch, pages: KVPages, layer: int) -> Tensor:
    """(N, heads, head) queries to (N, heads, head) outputs; the rows' own keys and values are in `pages` already."""
    out = torch.empty_like(queries)
    alone: Sequence[Segment] = batch.segments
    if queries.device.type != "cpu" and len(batch.decodes) > 1:
        alone = batch.prefills
        rows = batch.decode_tables.rows
        out[rows] = attend_decodes(queries[rows], batch, pages, layer)
    for segment in alone:
        rows_of = slice(segment.start, segment.start + segment.rows)
        out[rows_of] = _attend(queries[rows_of], *pages.read(layer, segment), segment)
    return out


def attend_decodes(queries: Tensor, batch: PackedBatch, pages: KVPages, layer: int) -> Tensor:
    """(B, heads, head) of the segments of one row, each over its context, padded to the longest."""
    tables = batch.decode_tables
    # What lies behind a context may be NaN, left by a request that broke, and no weight of 0 hides that.
    hidden = ~tables.mask.view(len(queries), -1, 1, 1)
    keys, values = (part.masked_fill(hidden, 0) for part in pages.gather(layer, tables.pages))
    grouped = queries.view(len(queries), keys.shape[2], -1, queries.shape[-1])
    mask = tables.mask.view(len(queries), 1, 1, -1)
    out = functional.scaled_dot_product_attention(grouped, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask)
    return out.reshape(queries.shape)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, segment: Segment) -> Tensor:
    """(rows, heads, head) over (context, kv_heads, head)."""
    keys, values = keys.transpose(0, 1).unsqueeze(0), values.transpose(0, 1).unsqueeze(0)
    if segment.rows == 1:
        # The queries of a group see the same positions, so they are the rows of one attention: (1, kv, group, head).
        grouped = queries.view(1, keys.shape[1], -1, queries.shape[-1])
        return functional.scaled_dot_product_attention(grouped, keys, values).view(1, -1, queries.shape[-1])
    fresh = segment.rows == segment.context
    out = functional.scaled_dot_product_attention(
        queries.transpose(0, 1).unsqueeze(0),
        keys,
        values,
        attn_mask=None if fresh else _lower_right(segment, queries.device),
        is_causal=fresh,
        enable_gqa=True,
    )
    return out.squeeze(0).transpose(0, 1)


def _lower_right(segment: Segment, device: torch.device) -> Tensor:
    """(rows, context): row r sees the context up to its own position."""
    last = torch.arange(segment.context - segment.rows, segment.context, device=device)
    return torch.arange(segment.context, device=device) <= last.unsqueeze(1)
