"""A runner over a device that only takes the time an H200 is computed to take, on a time line of its own.

Packing, uploads, slots and sampling are `ModelRunner`'s, in the host's time. Device times are of Mini's shapes at half
of an H200's arithmetic and 70 % of its bandwidth. No GPU is measured here.
"""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from workers.vision.bench.random_model import MINI, shapes
from workers.vision.engine.model_runner import ModelRunner
from workers.vision.engine.step_allowance import decoder_operations, vision_operations
from workers.vision.model.decode_steps import Row
from workers.vision.model.kv_pages import page_bytes
from workers.vision.model.packed_batch import PAGE_TOKENS, PackedBatch
from workers.vision.model.transfers import to_device

FLOPS, BYTES_PER_S = 989e12 / 2, 4.8e12 * 0.7
DECODER_BYTES = 3.4e9  # that a step reads of bf16 weights: all but the embeddings
CONFIG, TOKENIZER = shapes(MINI)
TILE_S = vision_operations(CONFIG, 1) / FLOPS
ROW_S = decoder_operations(CONFIG, 1) / FLOPS
SCORE_S = 4 * CONFIG.decoder.layers * CONFIG.decoder.heads * CONFIG.decoder.head / FLOPS  #: a row's, of one position
POSITION_S = page_bytes(CONFIG.decoder, torch.bfloat16) / PAGE_TOKENS / BYTES_PER_S
VOCAB, TOKEN = 512, 100  # what arg-max takes over more is the device's time


class TimeLine:
    """A device's queue: what is asked for begins when all before it is over."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self.busy_s = self.ends = 0.0

    def take(self, seconds: float) -> None:
        """Queue work."""
        self.ends = max(self.ends, time.perf_counter()) + seconds / self._speed
        self.busy_s += seconds / self._speed


class LineMark:
    """A point on a time line."""

    def __init__(self, line: TimeLine) -> None:
        self._at = max(line.ends, time.perf_counter())

    def wait(self) -> None:
        """Sleeping would be too coarse for a step of a millisecond."""
        while time.perf_counter() < self._at:
            pass

    def since(self, earlier: "LineMark") -> float:
        """See `Mark`."""
        return self._at - earlier._at


class SimulatedRunner(ModelRunner):
    """Always says the same token."""

    def __init__(self, slots: int, *, graphs: bool, speed: float = 1.0) -> None:
        """With `graphs` running answers are a step of their own, as on a GPU; else rows of the packed batch."""
        self.line = TimeLine(speed)
        cpu, newest = torch.device("cpu"), torch.zeros(slots + 1, dtype=torch.int64)
        model: Any = SimpleNamespace(
            encoder=SimpleNamespace(device=cpu, encode=None), decoder=_Decoder(self._decode_packed)
        )
        pages: Any = None
        steps: Any = _Steps(self) if graphs else None
        super().__init__(model, pages, newest, self._encode_tiles, steps)

    def mark(self) -> Any:
        """Where the time line ends."""
        return LineMark(self.line)

    def logits(self, rows: int) -> Tensor:
        """Logits of the one token."""
        logits = torch.zeros(rows, VOCAB)
        logits[:, TOKEN] = 1
        return logits

    def _encode_tiles(self, tiles: Tensor) -> Tensor:
        self.line.take(len(tiles) * TILE_S)
        return torch.zeros(len(tiles), CONFIG.tokens_per_tile, 1)

    def _decode_packed(self, batch: PackedBatch, _: Any) -> Tensor:
        products_s = max(DECODER_BYTES / BYTES_PER_S, len(batch.ids) * ROW_S)
        positions = sum(segment.context for segment in batch.decodes)
        scores = sum(segment.rows * (segment.context - segment.rows / 2) for segment in batch.prefills)
        self.line.take(products_s + positions * POSITION_S + scores * SCORE_S)
        return self.logits(0 if batch.wanted is None else len(batch.wanted))


class _Decoder:
    """A decoder that pads nothing."""

    pads_answers = False

    def __init__(self, call: Callable[[PackedBatch, Any], Tensor]) -> None:
        self._call = call

    def __call__(self, batch: PackedBatch, pages: Any) -> Tensor:
        """Take the time of the batch."""
        return self._call(batch, pages)


class _Steps:
    """`DecodeSteps` whose replays take the device's time."""

    def __init__(self, runner: SimulatedRunner) -> None:
        self._runner = runner

    def open(self, slot: int, pages: list[int]) -> None:
        """Upload as it does."""
        to_device(pages, torch.int64, torch.device("cpu"))

    def size_for(self, rows: int) -> int:
        """No padding."""
        return rows

    def __call__(self, rows: list[Row]) -> tuple[Tensor, Tensor]:
        """Upload as it does, then read all weights and contexts."""
        to_device(list(zip(*rows, strict=True)), torch.int64, torch.device("cpu"))
        contexts = sum(position + 1 for _, position, _ in rows)
        self._runner.line.take(DECODER_BYTES / BYTES_PER_S + contexts * POSITION_S)
        return self._runner.logits(len(rows)), torch.full((len(rows),), TOKEN)
