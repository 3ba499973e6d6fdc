"""The rows of one forward pass: tokens of several sequences, one after the other, without padding."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from workers.vision.model.transfers import to_device

PAGE_TOKENS = 16  #: small enough that prompts which part ways early still share; a tile of 256 tokens is 16 pages


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_TOKENS)


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one sequence; the last of them is its position `context - 1`."""

    start: int  #: first row in the batch
    rows: int
    context: int  #: positions that the last row sees, itself included
    pages: tuple[int, ...]  #: the sequence's page table up to `context`
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def is_run(self) -> bool:
        """Whether its pages lie one after the other, so that a view reads them."""
        return self.pages[-1] - self.pages[0] == len(self.pages) - 1 and all(
            page == self.pages[0] + place for place, page in enumerate(self.pages)
        )

    def table(self, device: torch.device) -> Tensor:
        """The page table as (pages,) int64, uploaded to each device once."""
        if device not in self._tables:
            self._tables[device] = to_device(self.pages, torch.int64, device)
        return self._tables[device]


@dataclass(frozen=True)
class DecodeTables:
    """The segments of one row, together."""

    rows: Tensor  #: (B,) int64, their rows in the batch
    pages: Tensor  #: (B, longest) int64, padded with the page 0
    contexts: Tensor  #: (B,) int64

    @cached_property
    def hidden(self) -> Tensor:
        """(B, longest * PAGE_TOKENS) bool: the positions that lie behind the context."""
        positions = torch.arange(self.pages.shape[1] * PAGE_TOKENS, device=self.pages.device)
        return positions >= self.contexts.unsqueeze(1)


@dataclass(frozen=True)
class PackedBatch:
    """What a forward pass computes. All tensors lie on one device."""

    ids: Tensor  #: (N,) int64
    positions: Tensor  #: (N,) int64
    slots: Tensor  #: (N,) int64, where each row's keys and values go in the cache
    segments: tuple[Segment, ...] = ()  #: none of a batch that has `tables`
    wanted: Tensor | None = None  #: (M,) int64, the rows whose logits are wanted; None: all
    tables: DecodeTables | None = None  #: of a batch that has one row a sequence and never saw the host
    features: tuple[tuple[int, Tensor], ...] = ()  #: (first row, (rows, hidden)): image features in place of ids

    def to(self, device: torch.device) -> "PackedBatch":
        """The batch on `device`."""
        if self.ids.device == device:
            return self
        return replace(
            self,
            ids=self.ids.to(device, non_blocking=True),
            positions=self.positions.to(device, non_blocking=True),
            slots=self.slots.to(device, non_blocking=True),
            wanted=None if self.wanted is None else self.wanted.to(device, non_blocking=True),
        )

    @cached_property
    def decodes(self) -> list[Segment]:
        """The segments of one row."""
        return [segment for segment in self.segments if segment.rows == 1]

    @cached_property
    def prefills(self) -> list[Segment]:
        """The segments of several rows."""
        return [segment for segment in self.segments if segment.rows > 1]

    @property
    def padded_positions(self) -> int:
        """Positions of `decodes` with all page tables as long as the longest."""
        return PAGE_TOKENS * len(self.decodes) * max(len(segment.pages) for segment in self.decodes)

    @cached_property
    def wanted_rows(self) -> "PackedBatch":
        """What is left for attention where only the wanted rows go on."""
        segments = []
        for at, row in enumerate([] if self.wanted is None else self.wanted.tolist()):
            segment = next(one for one in self.segments if one.start <= row < one.start + one.rows)
            context = segment.context - (segment.start + segment.rows - 1 - row)
            segments.append(Segment(at, 1, context, segment.pages[: pages_for(context)]))
        return replace(self, segments=tuple(segments))

    @cached_property
    def decode_tables(self) -> DecodeTables:
        """The tables of `decodes`."""
        if self.tables:
            return self.tables
        longest = max(len(segment.pages) for segment in self.decodes)
        padded = [segment.pages + (0,) * (longest - len(segment.pages)) for segment in self.decodes]
        device = self.ids.device
        return DecodeTables(
            rows=to_device([segment.start for segment in self.decodes], torch.int64, device),
            pages=to_device(padded, torch.int64, device),
            contexts=to_device([segment.context for segment in self.decodes], torch.int64, device),
        )
