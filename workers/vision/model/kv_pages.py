"""The memory of keys and values: one pool of pages a layer, addressed by slot = page * PAGE_TOKENS + offset."""

from collections.abc import Sequence

import torch
from torch import Tensor

from workers.vision.checkpoint.config import DecoderConfig
from workers.vision.model.packed_batch import PAGE_TOKENS, Segment


class KVPages:
    """Keys and values of `pages` pages for every layer; the system commits the memory as it is written.

    The page behind them, `scratch`, takes what rows without a sequence write.
    """

    def __init__(self, config: DecoderConfig, pages: int, dtype: torch.dtype, devices: Sequence[torch.device]) -> None:
        self.scratch = pages
        shape = ((pages + 1) * PAGE_TOKENS, config.kv_heads, config.head)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for device in devices]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for device in devices]


def read(pool: Tensor, segment: Segment) -> Tensor:
    """A segment's whole context of a pool, (context, kv_heads, head).

    A run of neighbouring pages is a view; only scattered pages are copied.
    """
    if segment.is_run:
        first = segment.pages[0] * PAGE_TOKENS
        return pool[first : first + segment.context]
    return by_page(pool).index_select(0, segment.table(pool.device)).flatten(0, 1)[: segment.context]


def by_page(pool: Tensor) -> Tensor:
    """(pages, PAGE_TOKENS, kv_heads, head) of a pool."""
    return pool.view(-1, PAGE_TOKENS, *pool.shape[1:])


def page_bytes(config: DecoderConfig, dtype: torch.dtype) -> int:
    """Bytes of one page in all layers, keys and values together."""
    return 2 * config.layers * PAGE_TOKENS * config.kv_heads * config.head * dtype.itemsize
