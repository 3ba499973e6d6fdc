"""The rows of one forward pass: tokens of several sequences, one after the other, without padding."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one sequence; the last of them is its position `context - 1`."""

    start: int  #: first row in the batch
    rows: int
    context: int  #: positions that the last row sees, itself included
    pages: tuple[int, ...]  #: the sequence's page table up to `context`

    @cached_property
    def is_run(self) -> bool:
        """Whether its pages lie one after the other, so that a view reads them."""
        return self.pages[-1] - self.pages[0] == len(self.pages) - 1 and all(
            page == self.pages[0] + place for place, page in enumerate(self.pages)
        )

    @cached_property
    def table(self) -> Tensor:
        """The page table as (pages,) int64."""
        return torch.tensor(self.pages)


@dataclass(frozen=True)
class PackedBatch:
    """What a forward pass computes. All tensors lie on one device."""

    ids: Tensor  #: (N,) int64
    positions: Tensor  #: (N,) int64
    slots: Tensor  #: (N,) int64, where each row's keys and values go in the cache
    segments: tuple[Segment, ...]
    wanted: Tensor  #: (M,) int64, the rows whose logits are wanted
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
            wanted=self.wanted.to(device, non_blocking=True),
        )
