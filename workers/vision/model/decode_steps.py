"""Decoding steps out of static buffers, so that CUDA graphs can replay them.

A sequence has a slot, at which the device keeps its newest token and its page table, so that a step's upload is three
numbers a sequence: slot, position, and the page that the position lies in. A step of fewer sequences than a graph was
recorded for is padded with a slot of its own, which writes to the scratch page.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workers.vision.model.decoder import Decoder
from workers.vision.model.graph import Graph, GraphPool
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PAGE_TOKENS, DecodeTables, PackedBatch, pages_for
from workers.vision.model.transfers import to_device

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
Row = tuple[int, int, int]  #: slot, position, page


class DecodeSteps:
    """Steps of up to as many sequences as `newest` has slots, but one: the last slot is that of the padding."""

    def __init__(self, decoder: Decoder, pages: KVPages, newest: Tensor) -> None:
        """`newest` (slots + 1,) int64 holds each sequence's newest token."""
        slots, self._device = len(newest) - 1, newest.device
        width = min(pages.scratch, pages_for(decoder.config.positions))
        self._decoder, self._pages, self._newest = decoder, pages, newest
        self._padding = slots, 0, pages.scratch
        self._tables = torch.full((slots + 1, width), pages.scratch, device=self._device)
        self.sizes = sorted({size for size in BUCKETS if size < slots} | {slots})
        self._rows = {
            size: torch.tensor([self._padding] * size, device=self._device).T.contiguous() for size in self.sizes
        }
        self._graphs: dict[int, Graph] = {}

    def record(self, pool: GraphPool) -> "DecodeSteps":
        """Compute by graphs from here on. The largest is recorded first: the smaller ones then use its memory."""
        self._graphs = {size: Graph(self.program(size), pool) for size in reversed(self.sizes)}
        return self

    def open(self, slot: int, pages: Sequence[int]) -> None:
        """Put a sequence's page table into its slot."""
        self._tables[slot, : len(pages)].copy_(to_device(pages, torch.int64, self._device))

    def size_for(self, rows: int) -> int:
        """How many rows a step of `rows` sequences computes."""
        return min(size for size in self.sizes if size >= rows)

    def __call__(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """(N, vocab) logits of the next tokens and (N,) the likeliest ones, -1 where a logit is not finite.

        Both are valid until the next replay.
        """
        size = self.size_for(len(rows))
        padded = [*rows, *[self._padding] * (size - len(rows))]
        self._rows[size].copy_(to_device(list(zip(*padded, strict=True)), torch.int64, self._device), non_blocking=True)
        logits, tokens = self._graphs[size].replay() if self._graphs else self.program(size)()
        return logits[: len(rows)], tokens[: len(rows)]

    def program(self, size: int) -> Callable[[], tuple[Tensor, ...]]:
        """What is recorded: reads `size` rows, the tables and the newest tokens where they lie, waits for nothing."""
        slots, positions, newest_pages = self._rows[size]
        order = torch.arange(size, device=self._device)

        def step() -> tuple[Tensor, ...]:
            self._tables[slots, positions // PAGE_TOKENS] = newest_pages
            tables = DecodeTables(order, self._tables[slots], positions + 1)
            at = newest_pages * PAGE_TOKENS + positions % PAGE_TOKENS
            logits = self._decoder(PackedBatch(self._newest[slots], positions, at, tables=tables), self._pages)
            return logits, greedy(logits)

        return step


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row of (N, vocab), -1 where a logit is NaN or infinite."""
    return torch.where(logits.isfinite().all(dim=-1), logits.argmax(dim=-1), -1)
