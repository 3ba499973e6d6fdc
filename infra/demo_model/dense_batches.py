"""Batches for the dense phase: crops packed with print, crops and tiles with shapes, whole tiles."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.demo_model import seeds
from infra.demo_model.data_parallel import SINGLE_PROCESS, DataParallelGroup
from infra.demo_model.dense_targets import dense_targets
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene, number_scene, print_scene, shapes_scene

GRID_TOKENS = 14  # tokens along the side of a tile


@dataclass
class DenseBatch:
    """Pictures of one size with their dense targets; `origins` say where in a tile each lies, in patches."""

    images: NDArray[np.uint8]
    origins: NDArray[np.int64]
    patches: NDArray[np.int64]  # (b, patches, attributes)
    tokens: NDArray[np.int64]  # (b, tokens, digits and attributes)
    kept_tokens: NDArray[np.int64] | None = (
        None  # (b, kept): the tokens that are looked at; patches and tokens are theirs
    )


@dataclass(frozen=True)
class BatchSpec:
    """What a batch holds and how large its pictures are (in tokens)."""

    name: str
    columns: int
    rows: int
    count: int
    kept_tokens: int = 0  # how many tokens of a picture are kept, all that show something first; 0: all

    def scene(self, rng: Rng) -> Scene:
        """Draw one picture of this kind."""
        width, height = 32 * self.columns, 32 * self.rows
        if self.name == "number":
            return number_scene(rng, width, height)
        if self.name == "print":
            return print_scene(rng, width, height, int(rng.integers(1, 5)))
        if self.name == "shapes":
            return shapes_scene(rng, width, height, max_shapes=3)
        return tile_scene(rng)


def tile_scene(rng: Rng) -> Scene:
    """Return a whole tile: a number (with shapes or not), lines of print, or shapes."""
    draw = rng.random()
    if draw < 0.3:
        return number_scene(rng, shapes=3)
    if draw < 0.6:
        return print_scene(rng, 448, 448, int(rng.integers(0, 7)))
    return shapes_scene(rng)


CROP_BATCHES = (BatchSpec("number", 9, 3, 22), BatchSpec("print", 8, 3, 26), BatchSpec("shapes", 8, 7, 18))
SMALL_CROP_BATCHES = (BatchSpec("number", 9, 3, 8), BatchSpec("print", 8, 3, 10), BatchSpec("shapes", 8, 7, 6))
SPARSE_TILE_BATCHES = (*SMALL_CROP_BATCHES, BatchSpec("whole", GRID_TOKENS, GRID_TOKENS, 16, kept_tokens=80))
TILE_BATCHES = (*SMALL_CROP_BATCHES, BatchSpec("whole", GRID_TOKENS, GRID_TOKENS, 10))


def draw_batch(spec: BatchSpec, rng: Rng) -> DenseBatch:
    """Draw one batch."""
    scenes = [spec.scene(rng) for _ in range(spec.count)]
    origins = np.stack(
        [
            2 * rng.integers(0, GRID_TOKENS - spec.rows + 1, spec.count),
            2 * rng.integers(0, GRID_TOKENS - spec.columns + 1, spec.count),
        ],
        1,
    )
    truths = [dense_targets(s) for s in scenes]
    patches = np.stack([t.patches.reshape(-1, t.patches.shape[-1]) for t in truths])
    tokens = np.stack([t.token_classes() for t in truths])
    tile_scene = DenseBatch(np.stack([s.image for s in scenes]), origins, patches, tokens)
    return drop_blank_tokens(tile_scene, spec, rng) if spec.kept_tokens else tile_scene


def drop_blank_tokens(tile_scene: DenseBatch, spec: BatchSpec, rng: Rng) -> DenseBatch:
    """Keep `kind.cells` tokens of each picture: those that show something first, then others by chance."""
    grouped = group_by_token(tile_scene.patches, spec.rows, spec.columns)
    occupied: NDArray[np.bool_] = np.logical_or((tile_scene.tokens > 0).any(-1), (grouped > 0).any((-1, -2)))
    kept_tokens = np.sort(np.argsort(rng.random(occupied.shape) - occupied, axis=1)[:, : spec.kept_tokens], axis=1)
    patches = np.take_along_axis(grouped, kept_tokens[:, :, None, None], 1).reshape(
        len(occupied), 4 * spec.kept_tokens, -1
    )
    tokens = np.take_along_axis(tile_scene.tokens, kept_tokens[:, :, None], 1)
    return DenseBatch(tile_scene.images, tile_scene.origins, patches, tokens, kept_tokens)


def group_by_token(patches: NDArray[np.int64], rows: int, columns: int) -> NDArray[np.int64]:
    """Order patches (b, 4 * tokens, attributes) by the token they belong to: (b, tokens, 4, attributes)."""
    b, _, c = patches.shape
    squares = patches.reshape(b, rows, 2, columns, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return squares.reshape(b, rows * columns, 4, c)


def step_batches(
    phase: int, step: int, specs: tuple[BatchSpec, ...], process_group: DataParallelGroup = SINGLE_PROCESS
) -> list[DenseBatch]:
    """Return what one process sees in one training step, the same in every run."""
    mine = [replace(spec, count=-(-spec.count // process_group.world_size)) for spec in specs]
    return [draw_batch(spec, seeds.train(phase, step, i, process_group.rank)) for i, spec in enumerate(mine)]
