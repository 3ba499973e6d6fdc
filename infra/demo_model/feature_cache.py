"""Tiles already seen by a frozen tower, of which pictures, pairs and pages are put together over and over.

Every tile is seen by itself, so six tiles with different fields and one thumbnail are a page like any other.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from infra.demo_model.attention_supervision import truth
from infra.demo_model.conversations import crowd, draw
from infra.demo_model.dense_targets import targets
from infra.demo_model.model import ChatModel, normalise
from infra.demo_model.precision import mixed
from infra.demo_model.render import Picture, Rng
from infra.demo_model.scenes import Scene, page_scene, print_scene


@dataclass
class Tile:
    """A scene, what the tower saw of it (196, width), and where something stands."""

    scene: Scene
    features: Tensor
    busy: Tensor
    truth: Tensor  # (196, attributes)


@dataclass
class Pool:
    """The latest tiles of each sort."""

    drawings: deque[Tile] = field(default_factory=lambda: deque(maxlen=4000))
    lines: deque[Tile] = field(default_factory=lambda: deque(maxlen=4000))
    blanks: deque[Tile] = field(default_factory=lambda: deque(maxlen=400))
    small: deque[Tile] = field(default_factory=lambda: deque(maxlen=300))


def squeezed(page: Scene) -> Scene:
    """Return the page as the thumbnail shows it."""
    small = Image.fromarray(page.picture).resize((448, 448), Image.Resampling.BICUBIC)
    return Scene(np.asarray(small), fields=page.fields)


def fresh_scenes(rng: Rng, counts: tuple[int, int, int, int], crowds: float) -> list[list[Scene]]:
    """Return so many new scenes of each sort: drawings (a share of them crowds), lines, blanks, thumbnails."""
    drawings, lines, blanks, small = counts
    return [
        [crowd(rng) if rng.random() < crowds else draw(rng) for _ in range(drawings)],
        [print_scene(rng, 448, 448, 1 + int(rng.choice(3, p=(0.5, 0.25, 0.25)))) for _ in range(lines)],
        [print_scene(rng, 448, 448, 0) for _ in range(blanks)],
        [squeezed(page_scene(rng)) for _ in range(small)],
    ]


@torch.no_grad()
def seen(model: ChatModel, pictures: Sequence[Picture]) -> Tensor:
    """Return token features of whole tiles, kept in bfloat16."""
    with mixed():
        return model.see(normalise(torch.from_numpy(np.stack(pictures))))[1].bfloat16()


def refresh(pool: Pool, model: ChatModel, rng: Rng, counts: tuple[int, int, int, int], crowds: float = 0.0) -> None:
    """Add so many new tiles of each sort; the oldest ones leave."""
    sorts = fresh_scenes(rng, counts, crowds)
    features = iter(seen(model, [s.picture for sort in sorts for s in sort]))
    for sort, kept in zip(sorts, (pool.drawings, pool.lines, pool.blanks, pool.small), strict=True):
        for scene in sort:
            found = targets(scene)
            busy = torch.from_numpy((found.tokens > 0).any(-1).flatten())
            scene.picture = scene.picture[:0]  # no longer needed, and a pool of pictures would fill the memory
            kept.append(Tile(scene, next(features), busy, truth(found)))


def some(rng: Rng, tiles: deque[Tile]) -> Tile:
    """Pick one tile."""
    return tiles[int(rng.integers(len(tiles)))]


def compose(pool: Pool, rng: Rng) -> tuple[Scene, list[Tile]]:
    """Put a page together: six tiles with three to six different fields, and a thumbnail."""
    fields: dict[int, str] = {}
    chosen: list[Tile] = []
    wanted = int(rng.integers(3, 7))
    for _ in range(200):
        tile = some(rng, pool.lines)
        if (
            len(chosen) < 6
            and len(fields) < wanted
            and not fields.keys() & tile.scene.fields.keys()
            and len(fields) + len(tile.scene.fields) <= wanted
        ):
            chosen.append(tile)
            fields |= tile.scene.fields
    chosen += [some(rng, pool.blanks) for _ in range(6 - len(chosen))]
    chosen = [chosen[int(i)] for i in rng.permutation(6)]
    return Scene(chosen[0].scene.picture, fields=fields), [*chosen, some(rng, pool.small)]
