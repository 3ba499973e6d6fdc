"""Carries a schedule to the device and its results back: the only part of the engine that calls the model."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from workers.vision.engine.scheduler import Chunk, TileWork
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.packed_batch import PAGE_TOKENS, PackedBatch, Segment
from workers.vision.model.vision_language_model import VisionLanguageModel


class ModelRunner:
    """Used by the engine's thread only."""

    def __init__(self, model: VisionLanguageModel, pages: KVPages) -> None:
        self._model = model
        self._pages = pages
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
        tiles = np.stack([one.sequence.request.tiles[one.tile] for one in work])
        # Clones, because a view would keep the features of its whole batch in memory for as long as it is cached.
        return [features.clone() for features in self._model.encoder.encode(torch.from_numpy(tiles))]

    def forward(self, chunks: list[Chunk]) -> Tensor:
        """(M, vocab) logits, a row for each chunk that completes its branch."""
        batch = pack(chunks)
        self.computed["rows", "wanted"] += len(batch.ids)
        if batch.decodes:
            wanted = sum(segment.context for segment in batch.decodes)
            self.computed["positions", "wanted"] += wanted
            if self._model.decoder.pads_answers:
                self.computed["positions", "padding"] += batch.padded_positions - wanted
        return self._model.decoder(batch, self._pages)

    def copy_page(self, source: int, target: int) -> None:
        """Copy the keys and values of one page to another."""
        here, there = (slice(page * PAGE_TOKENS, (page + 1) * PAGE_TOKENS) for page in (source, target))
        for pool in (*self._pages.keys, *self._pages.values):
            pool[there] = pool[here]


def pack(chunks: list[Chunk]) -> PackedBatch:
    """Lay the chunks' rows one after the other."""
    ids: list[int] = []
    slots: list[int] = []
    positions: list[int] = []
    segments: list[Segment] = []
    wanted: list[int] = []
    features: list[tuple[int, Tensor]] = []
    for chunk in chunks:
        branch, start = chunk.branch, len(ids)
        first, stop = branch.computed, branch.computed + chunk.rows
        ids += branch.tokens[first:stop]
        positions += range(first, stop)
        slots += (
            branch.pages[place // PAGE_TOKENS] * PAGE_TOKENS + place % PAGE_TOKENS for place in range(first, stop)
        )
        segments.append(Segment(start, chunk.rows, stop, tuple(branch.pages[: -(-stop // PAGE_TOKENS)])))
        features += _features(chunk, start)
        if chunk.completes:
            wanted.append(start + chunk.rows - 1)
    return PackedBatch(
        ids=torch.tensor(ids),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        segments=tuple(segments),
        wanted=torch.tensor(wanted, dtype=torch.int64),
        features=tuple(features),
    )


def _features(chunk: Chunk, start: int) -> list[tuple[int, Tensor]]:
    """The chunk's image features, each with the batch's row at which it begins."""
    tiles, first = chunk.sequence.tiles, chunk.branch.computed
    stop = first + chunk.rows
    found = []
    for tile in tiles.overlapping(first, stop):
        begin = tiles.starts[tile]
        rows = slice(max(0, first - begin), min(tiles.tokens, stop - begin))
        found.append((start + max(0, begin - first), chunk.sequence.features[tile][rows]))
    return found
