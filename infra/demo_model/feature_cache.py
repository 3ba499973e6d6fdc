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

from infra.demo_model.attention_supervision import token_classes
from infra.demo_model.conversations import random_drawing, repeated_shapes_scene
from infra.demo_model.dense_targets import dense_targets
from infra.demo_model.model import ChatModel, normalise
from infra.demo_model.precision import autocast
from infra.demo_model.render import ImageArray, Rng
from infra.demo_model.scenes import Scene, page_scene, print_scene


@dataclass
class CachedTile:
    """A scene, what the tower saw of it (196, width), and where something stands."""

    scene: Scene
    features: Tensor
    occupied: Tensor
    classes: Tensor  # (196, attributes)


@dataclass
class FeatureCache:
    """The latest tiles of each sort."""

    drawings: deque[CachedTile] = field(default_factory=lambda: deque(maxlen=4000))
    print_tiles: deque[CachedTile] = field(default_factory=lambda: deque(maxlen=4000))
    blank_tiles: deque[CachedTile] = field(default_factory=lambda: deque(maxlen=400))
    thumbnails: deque[CachedTile] = field(default_factory=lambda: deque(maxlen=300))


def thumbnail_scene(page: Scene) -> Scene:
    """Return the page as the thumbnail shows it."""
    thumbnails = Image.fromarray(page.image).resize((448, 448), Image.Resampling.BICUBIC)
    return Scene(np.asarray(thumbnails), fields=page.fields)


def draw_scenes(rng: Rng, counts: tuple[int, int, int, int], repeated_share: float) -> list[list[Scene]]:
    """Return so many new scenes of each sort: drawings (a share of them crowds), lines, blanks, thumbnails."""
    drawings, print_tiles, blank_tiles, thumbnails = counts
    return [
        [repeated_shapes_scene(rng) if rng.random() < repeated_share else random_drawing(rng) for _ in range(drawings)],
        [print_scene(rng, 448, 448, 1 + int(rng.choice(3, p=(0.5, 0.25, 0.25)))) for _ in range(print_tiles)],
        [print_scene(rng, 448, 448, 0) for _ in range(blank_tiles)],
        [thumbnail_scene(page_scene(rng)) for _ in range(thumbnails)],
    ]


@torch.no_grad()
def encode_tiles(model: ChatModel, images: Sequence[ImageArray]) -> Tensor:
    """Return token features of whole tiles, kept in bfloat16."""
    with autocast():
        return model.encode_images(normalise(torch.from_numpy(np.stack(images))))[1].bfloat16()


def add_tiles(
    cache: FeatureCache, model: ChatModel, rng: Rng, counts: tuple[int, int, int, int], repeated_share: float = 0.0
) -> None:
    """Add so many new tiles of each sort; the oldest ones leave."""
    groups = draw_scenes(rng, counts, repeated_share)
    features = iter(encode_tiles(model, [s.image for group in groups for s in group]))
    for group, queue in zip(
        groups, (cache.drawings, cache.print_tiles, cache.blank_tiles, cache.thumbnails), strict=True
    ):
        for scene in group:
            targets = dense_targets(scene)
            occupied = torch.from_numpy((targets.tokens > 0).any(-1).flatten())
            scene.image = scene.image[:0]  # no longer needed, and a pool of pictures would fill the memory
            queue.append(CachedTile(scene, next(features), occupied, token_classes(targets)))


def sample_tile(rng: Rng, tiles: deque[CachedTile]) -> CachedTile:
    """Pick one tile."""
    return tiles[int(rng.integers(len(tiles)))]


def compose_page(cache: FeatureCache, rng: Rng) -> tuple[Scene, list[CachedTile]]:
    """Put a page together: six tiles with three to six different fields, and a thumbnail."""
    fields: dict[int, str] = {}
    chosen: list[CachedTile] = []
    field_count = int(rng.integers(3, 7))
    for _ in range(200):
        tile = sample_tile(rng, cache.print_tiles)
        if (
            len(chosen) < 6
            and len(fields) < field_count
            and not fields.keys() & tile.scene.fields.keys()
            and len(fields) + len(tile.scene.fields) <= field_count
        ):
            chosen.append(tile)
            fields |= tile.scene.fields
    chosen += [sample_tile(rng, cache.blank_tiles) for _ in range(6 - len(chosen))]
    chosen = [chosen[int(i)] for i in rng.permutation(6)]
    return Scene(chosen[0].scene.image, fields=fields), [*chosen, sample_tile(rng, cache.thumbnails)]
