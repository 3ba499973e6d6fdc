"""The tower as CUDA graphs by number of tiles. Any number of tiles is split into recorded ones, so none is padded."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from workers.vision.model.graph import Graph, GraphPool
from workers.vision.model.vision_encoder import VisionEncoder

TILE_COUNTS = (16, 13, 8, 7, 4, 2, 1)


class TowerGraphs:
    """(T, side, side, 3) uint8 in the host's memory to (T, tokens of a tile, hidden), as `VisionEncoder.encode`."""

    def __init__(self, encoder: VisionEncoder, pool: GraphPool) -> None:
        shape = max(TILE_COUNTS), encoder.side, encoder.side, 3
        self._tiles = torch.zeros(shape, dtype=torch.uint8, device=encoder.device)
        self._graphs = {count: Graph(self._program(encoder, count), pool) for count in TILE_COUNTS}

    def __call__(self, tiles: Tensor) -> Tensor:
        """Queue the upload and the replays."""
        parts, start = [], 0
        for count in split(len(tiles)):
            parts.append(self._replay(tiles[start : start + count]))
            start += count
        return torch.cat(parts)

    def _replay(self, tiles: Tensor) -> Tensor:
        self._tiles[: len(tiles)].copy_(tiles, non_blocking=True)
        (features,) = self._graphs[len(tiles)].replay()
        return features.clone()  # the next replay overwrites it

    def _program(self, encoder: VisionEncoder, count: int) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: (encoder.encode(self._tiles[:count]),)


def split(tiles: int) -> Iterator[int]:
    """Sizes of recorded graphs that add up to `tiles`, the largest first."""
    for count in TILE_COUNTS:
        times, tiles = divmod(tiles, count)
        yield from [count] * times
