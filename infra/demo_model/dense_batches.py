"""Batches of the dense phases: crops packed with print, crops of shapes, whole tiles."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from infra.demo_model import seeds
from infra.demo_model.data_parallel import SINGLE_PROCESS, DataParallelGroup
from infra.demo_model.dense_targets import BACKGROUND, TOKEN_PX, dense_targets
from infra.demo_model.render import Rng
from infra.demo_model.scenes import TILE_PX, Scene, number_scene, print_scene, shapes_scene

TILE_TOKENS = TILE_PX // TOKEN_PX  # along the side of a tile


@dataclass
class DenseBatch:
    """Images of one size with their dense targets.

    With `kept_tokens` the model sees only those tokens of each image; patches and tokens are theirs alone.
    """

    images: NDArray[np.uint8]  #: (batch, height, width, 3)
    origins: NDArray[np.int64]  #: (batch, 2): row and column in a tile of each image's first patch
    patches: NDArray[np.int64]  #: (batch, patches, attributes)
    tokens: NDArray[np.int64]  #: (batch, tokens, digits + attributes)
    kept_tokens: NDArray[np.int64] | None = None  #: (batch, kept), indices in rising order


@dataclass(frozen=True)
class BatchSpec:
    """The contents of a batch: a kind of scene, the size of the images in tokens, their number."""

    name: str  #: number, print, shapes or tile
    columns: int
    rows: int
    count: int
    kept_tokens: int = 0  #: tokens kept of each image, those that show something first; 0: all

    def draw_scene(self, rng: Rng) -> Scene:
        """Draw one scene."""
        width, height = TOKEN_PX * self.columns, TOKEN_PX * self.rows
        if self.name == "number":
            return number_scene(rng, width, height)
        if self.name == "print":
            return print_scene(rng, width, height, int(rng.integers(1, 5)))
        if self.name == "shapes":
            return shapes_scene(rng, width, height, max_shapes=3)
        return tile_scene(rng)


def tile_scene(rng: Rng) -> Scene:
    """Draw a whole tile: a number with or without shapes, lines of print, or shapes."""
    choice = rng.random()
    if choice < 0.3:
        return number_scene(rng, max_shapes=3)
    if choice < 0.6:
        return print_scene(rng, TILE_PX, TILE_PX, int(rng.integers(0, 7)))
    return shapes_scene(rng)


CROP_BATCHES = (BatchSpec("number", 9, 3, 22), BatchSpec("print", 8, 3, 26), BatchSpec("shapes", 8, 7, 18))
SMALL_CROP_BATCHES = (BatchSpec("number", 9, 3, 8), BatchSpec("print", 8, 3, 10), BatchSpec("shapes", 8, 7, 6))
SPARSE_TILE_BATCHES = (*SMALL_CROP_BATCHES, BatchSpec("tile", TILE_TOKENS, TILE_TOKENS, 16, kept_tokens=80))
TILE_BATCHES = (*SMALL_CROP_BATCHES, BatchSpec("tile", TILE_TOKENS, TILE_TOKENS, 10))


def draw_batch(spec: BatchSpec, rng: Rng) -> DenseBatch:
    """Draw one batch."""
    scenes = [spec.draw_scene(rng) for _ in range(spec.count)]
    origins = np.stack(
        [
            2 * rng.integers(0, TILE_TOKENS - spec.rows + 1, spec.count),
            2 * rng.integers(0, TILE_TOKENS - spec.columns + 1, spec.count),
        ],
        1,
    )
    targets = [dense_targets(s) for s in scenes]
    patches = np.stack([t.patches.reshape(-1, t.patches.shape[-1]) for t in targets])
    tokens = np.stack([t.token_classes() for t in targets])
    batch = DenseBatch(np.stack([s.image for s in scenes]), origins, patches, tokens)
    return drop_blank_tokens(batch, spec, rng) if spec.kept_tokens else batch


def drop_blank_tokens(batch: DenseBatch, spec: BatchSpec, rng: Rng) -> DenseBatch:
    """Keep `spec.kept_tokens` tokens of each image: those that show something, then blank ones at random."""
    grouped = group_by_token(batch.patches, spec.rows, spec.columns)
    shown_by_token, shown_by_patch = (batch.tokens != BACKGROUND).any(-1), (grouped != BACKGROUND).any((-1, -2))
    is_occupied: NDArray[np.bool_] = np.logical_or(shown_by_token, shown_by_patch)
    order = np.argsort(rng.random(is_occupied.shape) - is_occupied, axis=1)
    kept = np.sort(order[:, : spec.kept_tokens], axis=1)
    patches = np.take_along_axis(grouped, kept[:, :, None, None], 1).reshape(len(kept), 4 * spec.kept_tokens, -1)
    tokens = np.take_along_axis(batch.tokens, kept[:, :, None], 1)
    return DenseBatch(batch.images, batch.origins, patches, tokens, kept)


def group_by_token(patches: NDArray[np.int64], rows: int, columns: int) -> NDArray[np.int64]:
    """Order patches (batch, 4 * tokens, attributes) by the token they belong to: (batch, tokens, 4, attributes).

    rows, columns: of tokens
    """
    b, _, c = patches.shape
    grouped = patches.reshape(b, rows, 2, columns, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return grouped.reshape(b, rows * columns, 4, c)


def step_batches(
    phase: int, step: int, specs: tuple[BatchSpec, ...], process_group: DataParallelGroup = SINGLE_PROCESS
) -> list[DenseBatch]:
    """Draw this rank's batches of one training step, the same in every run."""
    rank_specs = [replace(spec, count=-(-spec.count // process_group.world_size)) for spec in specs]
    return [draw_batch(spec, seeds.train(phase, step, i, process_group.rank)) for i, spec in enumerate(rank_specs)]
