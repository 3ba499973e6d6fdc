"""Batches for the dense phase: crops packed with print, crops and tiles with shapes, whole tiles."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.demo_model import seeds
from infra.demo_model.data_parallel import ALONE, Pair
from infra.demo_model.dense_targets import targets
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene, number_scene, print_scene, shapes_scene

GRID = 14  # tokens along the side of a tile


@dataclass
class Batch:
    """Pictures of one size with their dense targets; `origins` say where in a tile each lies, in patches."""

    pictures: NDArray[np.uint8]
    origins: NDArray[np.int64]
    patches: NDArray[np.int64]  # (b, patches, attributes)
    tokens: NDArray[np.int64]  # (b, tokens, digits and attributes)
    cells: NDArray[np.int64] | None = None  # (b, kept): the tokens that are looked at; patches and tokens are theirs


@dataclass(frozen=True)
class Kind:
    """What a batch holds and how large its pictures are (in tokens)."""

    name: str
    columns: int
    rows: int
    count: int
    cells: int = 0  # how many tokens of a picture are kept, all that show something first; 0: all

    def scene(self, rng: Rng) -> Scene:
        """Draw one picture of this kind."""
        width, height = 32 * self.columns, 32 * self.rows
        if self.name == "number":
            return number_scene(rng, width, height)
        if self.name == "print":
            return print_scene(rng, width, height, int(rng.integers(1, 5)))
        if self.name == "shapes":
            return shapes_scene(rng, width, height, most=3)
        return whole(rng)


def whole(rng: Rng) -> Scene:
    """Return a whole tile: a number (with shapes or not), lines of print, or shapes."""
    draw = rng.random()
    if draw < 0.3:
        return number_scene(rng, shapes=3)
    if draw < 0.6:
        return print_scene(rng, 448, 448, int(rng.integers(0, 7)))
    return shapes_scene(rng)


CROPS = (Kind("number", 9, 3, 22), Kind("print", 8, 3, 26), Kind("shapes", 8, 7, 18))
SMALL = (Kind("number", 9, 3, 8), Kind("print", 8, 3, 10), Kind("shapes", 8, 7, 6))
BUSY = (*SMALL, Kind("whole", GRID, GRID, 16, cells=80))
TILES = (*SMALL, Kind("whole", GRID, GRID, 10))


def batch(kind: Kind, rng: Rng) -> Batch:
    """Draw one batch."""
    scenes = [kind.scene(rng) for _ in range(kind.count)]
    origins = np.stack(
        [
            2 * rng.integers(0, GRID - kind.rows + 1, kind.count),
            2 * rng.integers(0, GRID - kind.columns + 1, kind.count),
        ],
        1,
    )
    truths = [targets(s) for s in scenes]
    patches = np.stack([t.patches.reshape(-1, t.patches.shape[-1]) for t in truths])
    tokens = np.stack([t.of_tokens() for t in truths])
    whole = Batch(np.stack([s.picture for s in scenes]), origins, patches, tokens)
    return thinned(whole, kind, rng) if kind.cells else whole


def thinned(whole: Batch, kind: Kind, rng: Rng) -> Batch:
    """Keep `kind.cells` tokens of each picture: those that show something first, then others by chance."""
    grouped = group(whole.patches, kind.rows, kind.columns)
    busy: NDArray[np.bool_] = np.logical_or((whole.tokens > 0).any(-1), (grouped > 0).any((-1, -2)))
    cells = np.sort(np.argsort(rng.random(busy.shape) - busy, axis=1)[:, : kind.cells], axis=1)
    patches = np.take_along_axis(grouped, cells[:, :, None, None], 1).reshape(len(busy), 4 * kind.cells, -1)
    tokens = np.take_along_axis(whole.tokens, cells[:, :, None], 1)
    return Batch(whole.pictures, whole.origins, patches, tokens, cells)


def group(patches: NDArray[np.int64], rows: int, columns: int) -> NDArray[np.int64]:
    """Order patches (b, 4 * tokens, attributes) by the token they belong to: (b, tokens, 4, attributes)."""
    b, _, c = patches.shape
    squares = patches.reshape(b, rows, 2, columns, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, rows * columns, 4, c)


def step_batches(phase: int, step: int, kinds: tuple[Kind, ...], pair: Pair = ALONE) -> list[Batch]:
    """Return what one process sees in one training step, the same in every run."""
    mine = [replace(kind, count=-(-kind.count // pair.size)) for kind in kinds]
    return [batch(kind, seeds.train(phase, step, i, pair.rank)) for i, kind in enumerate(mine)]
