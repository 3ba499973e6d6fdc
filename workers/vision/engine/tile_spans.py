"""Which positions of a prompt stand for which tile, and what identifies the tile's pixels."""

import hashlib
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from workers.vision.engine.base import EngineRequest


@dataclass(frozen=True)
class TileSpans:
    """Where each tile's tokens stand in the prompt, and what the tile holds."""

    starts: list[int]
    tokens: int  #: of one tile
    keys: list[bytes]  #: sha256 over the request's salt and the tile's pixels: features are shared as prefixes are

    def after(self, position: int) -> range:
        """The tiles with a token at `position` or later."""
        return range(bisect_right(self.starts, position - self.tokens), len(self.starts))

    def overlapping(self, start: int, stop: int) -> list[int]:
        """The tiles with a token from `start` up to `stop`."""
        return [tile for tile in self.after(start) if self.starts[tile] < stop]

    def content(self, start: int, stop: int) -> bytes:
        """What the pixels say about the positions from `start` up to `stop`."""
        return b"".join(
            self.keys[tile] + (start - self.starts[tile]).to_bytes(8, "little", signed=True)
            for tile in self.overlapping(start, stop)
        )


def tile_spans(request: EngineRequest, tokens_per_tile: int) -> TileSpans:
    """Find each tile's tokens, and hash its pixels (about 1 ms a tile)."""
    starts = [span.offset + tile * tokens_per_tile for span in request.prompt.images for tile in range(span.tiles)]
    salted = hashlib.sha256(request.cache_salt.encode())
    keys = []
    for tile in request.tiles:
        digest = salted.copy()
        digest.update(np.ascontiguousarray(tile).data)
        keys.append(digest.digest())
    return TileSpans(starts, tokens_per_tile, keys)
