"""Queues a schedule on the device: the only part of the engine that calls the model. Waits for nothing.

The token that was chosen for a sequence stays on the device, at the sequence's slot, and enters the next step there.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from workers.vision.engine import sampler
from workers.vision.engine.schedule import Chunk, TileWork
from workers.vision.engine.sequence import Sequence
from workers.vision.model.decode_steps import DecodeSteps
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PAGE_TOKENS, PackedBatch, Segment, pages_for
from workers.vision.model.transfers import Mark, Readback, staging, to_device
from workers.vision.model.vision_language_model import VisionLanguageModel

Encode = Callable[[Tensor], Tensor]  #: (T, side, side, 3) uint8 in the host's memory to (T, tokens of a tile, hidden)


@dataclass(frozen=True)
class Forward:
    """What a forward pass gives."""

    chunks: list[Chunk]  #: those that complete their branch
    logits: Tensor  #: (M, vocab), a row for each
    likeliest: Tensor | None = None  #: (M,) int64 as of `sampler.sample`, if it was computed along


class ModelRunner:
    """Used by the engine's thread only."""

    def __init__(
        self,
        model: VisionLanguageModel,
        pages: KVPages,
        newest: Tensor,
        encode: Encode | None = None,
        steps: DecodeSteps | None = None,
    ) -> None:
        """`newest` (slots + 1,) int64 is where tokens wait for the next step; `encode` takes the encoder's place."""
        self._model, self._pages, self._steps = model, pages, steps
        self._newest = newest
        self._encode = encode or model.encoder.encode
        #: By unit (tiles, rows of the decoder, positions that running answers attend to) and use: wanted or padding.
        self.computed = {(unit, use): 0 for unit in ("tiles", "rows", "positions") for use in ("wanted", "padding")}

    def after_each_layer(self, call: Callable[[], None]) -> None:
        """Let `call` hear of each layer, as signs of life: on a slow CPU a step takes minutes, and a layer seconds.

        On a GPU, which is asked for the layers ahead, they come early and all at once.
        """
        self._model.encoder.layer_done = self._model.decoder.layer_done = call

    def encode(self, work: list[TileWork]) -> list[Tensor]:
        """Features of each tile, (tokens, hidden)."""
        self.computed["tiles", "wanted"] += len(work)
        tiles = [one.sequence.request.tiles[one.tile] for one in work]
        staged = staging((len(tiles), *tiles[0].shape), self._model.encoder.device)
        np.stack(tiles, out=staged.numpy())
        # Clones, because a view would keep the features of its whole batch in memory for as long as it is cached.
        return [features.clone() for features in self._encode(staged)]

    def forward(self, chunks: list[Chunk]) -> Forward:
        """Rows of opened sequences are a decoding step from static buffers; all others are packed."""
        opened = [chunk for chunk in chunks if chunk.sequence.opened]
        others = [chunk for chunk in chunks if not chunk.sequence.opened]
        if not (self._steps and opened):
            return self._packed(others)
        decoded = Forward(opened, *self._steps([decode_row(chunk) for chunk in opened]))
        self.computed["rows", "wanted"] += len(opened)
        self.computed["rows", "padding"] += self._steps.size_for(len(opened)) - len(opened)
        self.computed["positions", "wanted"] += sum(chunk.stop for chunk in opened)
        if not others:
            return decoded
        packed = self._packed(others)
        return Forward(opened + packed.chunks, torch.cat((decoded.logits, packed.logits)))

    def _packed(self, chunks: list[Chunk]) -> Forward:
        batch = pack(chunks, self._newest)
        self.computed["rows", "wanted"] += len(batch.ids)
        if batch.decodes:
            wanted = sum(segment.context for segment in batch.decodes)
            self.computed["positions", "wanted"] += wanted
            if self._model.decoder.pads_answers:
                self.computed["positions", "padding"] += batch.padded_positions - wanted
        return Forward([chunk for chunk in chunks if chunk.completes], self._model.decoder(batch, self._pages))

    def choose(self, forward: Forward, places: list[int]) -> Readback:
        """Choose the next tokens of `places`, one chunk of a sequence each, and keep them for the next step."""
        chosen = [forward.chunks[place].sequence for place in places]
        rows = [sequence.row(sequence.branch) for sequence in chosen]
        everyone = len(places) == len(forward.chunks)
        at = None if everyone else to_device(places, torch.int64, forward.logits.device)
        if forward.likeliest is not None and all(row.plain for row in rows):
            tokens = forward.likeliest if at is None else forward.likeliest[at]
        else:
            tokens = sampler.sample(forward.logits if at is None else forward.logits[at], rows)
        slots = to_device([sequence.slot for sequence in chosen], torch.int64, self._newest.device)
        self._newest[slots] = tokens.clamp(min=0).to(self._newest.device)
        for sequence in chosen:
            self._open(sequence)
        return Readback(tokens)

    def mark(self) -> Mark:
        """Mark where the device's queue ends now."""
        return Mark(self._newest.device)

    def _open(self, sequence: Sequence) -> None:
        if self._steps and not sequence.opened:
            self._steps.open(sequence.slot, sequence.branch.pages)
            sequence.opened = True

    def copy_page(self, source: int, target: int) -> None:
        """Copy the keys and values of one page to another."""
        here, there = (slice(page * PAGE_TOKENS, (page + 1) * PAGE_TOKENS) for page in (source, target))
        for pool in (*self._pages.keys, *self._pages.values):
            pool[there] = pool[here]


def decode_row(chunk: Chunk) -> tuple[int, int, int]:
    """What `DecodeSteps` takes of a sequence."""
    return chunk.sequence.slot, chunk.start, chunk.branch.pages[chunk.start // PAGE_TOKENS]


def pack(chunks: list[Chunk], newest: Tensor) -> PackedBatch:
    """Lay the chunks' rows one after the other; what the host has not read is in `newest` at the sequence's slot."""
    starts = accumulate((chunk.rows for chunk in chunks[:-1]), initial=0)
    placed = list(zip(chunks, starts, strict=True))
    unread = [(start + chunk.rows - 1, chunk.sequence.slot) for chunk, start in placed if chunk.has_unread]
    numbers = (
        [token for chunk in chunks for token in chunk.ids],
        [position for chunk in chunks for position in chunk.positions],
        [slot for chunk in chunks for slot in _slots(chunk)],
    )
    packed = to_device(numbers, torch.int64, newest.device)
    if unread:
        rows, held = to_device(list(zip(*unread, strict=True)), torch.int64, newest.device)
        packed[0, rows] = newest[held]
    wanted = [start + chunk.rows - 1 for chunk, start in placed if chunk.completes]
    return PackedBatch(
        ids=packed[0],
        positions=packed[1],
        slots=packed[2],
        segments=tuple(
            Segment(start, chunk.rows, chunk.stop, tuple(chunk.branch.pages[: pages_for(chunk.stop)]))
            for chunk, start in placed
        ),
        wanted=to_device(wanted, torch.int64, newest.device),
        features=tuple(features for chunk, start in placed for features in _features(chunk, start)),
    )


def _slots(chunk: Chunk) -> Iterator[int]:
    """Where the keys and values of the chunk's rows go."""
    for position in chunk.positions:
        yield chunk.branch.pages[position // PAGE_TOKENS] * PAGE_TOKENS + position % PAGE_TOKENS


def _features(chunk: Chunk, start: int) -> Iterator[tuple[int, Tensor]]:
    """The chunk's image features, each with the batch's row at which it begins."""
    tiles, first, stop = chunk.sequence.tiles, chunk.start, chunk.stop
    for tile in tiles.overlapping(first, stop):
        begin = tiles.starts[tile]
        rows = slice(max(0, first - begin), min(tiles.tokens, stop - begin))
        yield start + max(0, begin - first), chunk.sequence.features[tile][rows]
