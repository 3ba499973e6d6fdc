"""Causal attention of packed rows over paged keys and values, a segment at a time."""

import torch
from torch import Tensor
from torch.nn import functional

from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PackedBatch, Segment


def attend(queries: Tensor, batch: PackedBatch, pages: KVPages, layer: int) -> Tensor:
    """(N, heads, head) queries to (N, heads, head) outputs; the rows' own keys and values are in `pages` already."""
    out = torch.empty_like(queries)
    for segment in batch.segments:
        rows = slice(segment.start, segment.start + segment.rows)
        out[rows] = _attend(queries[rows], *pages.read(layer, segment), segment)
    return out


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
