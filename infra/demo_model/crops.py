"""Batches for the dense phase: crops packed with print, crops and tiles with shapes, whole tiles."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.demo_model import seeds
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene, number_scene, print_scene, shapes_scene
from infra.demo_model.targets import targets

GRID = 14  # tokens along the side of a tile


@dataclass
class Batch:
    """Pictures of one size with their dense targets; `origins` say where in a tile each lies, in patches."""

    pictures: NDArray[np.uint8]
    origins: NDArray[np.int64]
    patches: NDArray[np.int64]  # (b, patches, attributes)
    tokens: NDArray[np.int64]  # (b, tokens, digits and attributes)


@dataclass(frozen=True)
class Kind:
    """What a batch holds and how large its pictures are (in tokens)."""

    name: str
    columns: int
    rows: int
    count: int

    def scene(self, rng: Rng) -> Scene:
        """Draw one picture of this kind."""
        width, height = 32 * self.columns, 32 * self.rows
        if self.name == "number":
            return number_scene(rng, width, height)
        if self.name == "print":
            return print_scene(rng, width, height, int(rng.integers(1, 5)))
        if self.name == "shapes":
            return shapes_scene(rng, width, height)
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
TILES = (Kind("number", 9, 3, 12), Kind("print", 8, 3, 12), Kind("shapes", 8, 7, 8), Kind("whole", GRID, GRID, 8))


def batch(kind: Kind, rng: Rng) -> Batch:
    """Draw one batch."""
    scenes = [kind.scene(rng) for _ in range(kind.count)]
    truths = [targets(s) for s in scenes]
    origins = np.stack(
        [
            2 * rng.integers(0, GRID - kind.rows + 1, kind.count),
            2 * rng.integers(0, GRID - kind.columns + 1, kind.count),
        ],
        1,
    )
    return Batch(
        np.stack([s.picture for s in scenes]),
        origins,
        np.stack([t.patches.reshape(-1, t.patches.shape[-1]) for t in truths]),
        np.stack([np.concatenate([t.digits, t.tokens], -1).reshape(kind.rows * kind.columns, -1) for t in truths]),
    )


def step_batches(phase: int, step: int, kinds: tuple[Kind, ...]) -> list[Batch]:
    """Return what one training step sees, the same in every run."""
    return [batch(kind, seeds.train(phase, step, i)) for i, kind in enumerate(kinds)]
