"""A cache of tiles that the frozen tower has encoded, from which drawings, pairs and pages are composed many times.

The tower encodes every tile by itself, so six tiles with different fields and one thumbnail make a valid page.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from infra.demo_model.attention_supervision import token_classes
from infra.demo_model.dense_targets import BACKGROUND, dense_targets
from infra.demo_model.model import ChatModel, normalise
from infra.demo_model.precision import autocast
from infra.demo_model.render import ImageArray, Rng
from infra.demo_model.scenes import TILE_PX, Scene, mixed_scene, page_scene, print_scene, repeated_shapes_scene

PAGE_TILES = 6
MAX_PAGE_DRAWS = 200  # tiles drawn for one page


@dataclass
class CachedTile:
    """One encoded tile. Its scene holds the annotations; the image is emptied."""

    scene: Scene
    features: Tensor  #: (196, width), bfloat16
    occupied: Tensor  #: (196,), bool: tokens that show something
    classes: Tensor  #: (196, digits + attributes), int8


class TileCounts(NamedTuple):
    """Numbers of tiles to be added."""

    drawings: int
    print_tiles: int
    blank_tiles: int
    thumbnails: int


@dataclass
class FeatureCache:
    """The latest tiles of each kind; a full queue drops its oldest tile."""

    drawings: deque[CachedTile] = field(default_factory=lambda: deque(maxlen=4000))
    print_tiles: deque[CachedTile] = field(default_factory=lambda: deque(maxlen=4000))
    blank_tiles: deque[CachedTile] = field(default_factory=lambda: deque(maxlen=400))
    thumbnails: deque[CachedTile] = field(default_factory=lambda: deque(maxlen=300))


def thumbnail_scene(page: Scene) -> Scene:
    """Return the page reduced to one tile, with its fields but without glyphs: they are not legible."""
    thumbnail = Image.fromarray(page.image).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)
    return Scene(np.asarray(thumbnail), fields=page.fields)


def draw_scenes(rng: Rng, counts: TileCounts, repeated_share: float) -> list[list[Scene]]:
    """Draw `counts` scenes of each kind; `repeated_share` of the drawings repeat a kind or a colour of shape."""
    return [
        [
            repeated_shapes_scene(rng) if rng.random() < repeated_share else mixed_scene(rng)
            for _ in range(counts.drawings)
        ],
        [
            print_scene(rng, TILE_PX, TILE_PX, 1 + int(rng.choice(3, p=(0.5, 0.25, 0.25))))
            for _ in range(counts.print_tiles)
        ],
        [print_scene(rng, TILE_PX, TILE_PX, 0) for _ in range(counts.blank_tiles)],
        [thumbnail_scene(page_scene(rng)) for _ in range(counts.thumbnails)],
    ]


@torch.no_grad()
def encode_tiles(model: ChatModel, images: Sequence[ImageArray]) -> Tensor:
    """Return the token features of whole tiles, (tiles, 196, width), bfloat16."""
    with autocast():
        return model.encode_images(normalise(torch.from_numpy(np.stack(images))))[1].bfloat16()


def add_tiles(cache: FeatureCache, model: ChatModel, rng: Rng, counts: TileCounts, repeated_share: float = 0.0) -> None:
    """Draw, encode and add `counts` new tiles of each kind."""
    groups = draw_scenes(rng, counts, repeated_share)
    features = iter(encode_tiles(model, [s.image for scenes in groups for s in scenes]))
    queues = (cache.drawings, cache.print_tiles, cache.blank_tiles, cache.thumbnails)
    for scenes, queue in zip(groups, queues, strict=True):
        for scene in scenes:
            targets = dense_targets(scene)
            occupied = torch.from_numpy((targets.tokens != BACKGROUND).any(-1).flatten())
            scene.image = scene.image[:0].copy()  # a view would keep the pixels: 0.6 MB for each of 8,700 tiles
            queue.append(CachedTile(scene, next(features), occupied, token_classes(targets)))


def sample_tile(rng: Rng, tiles: deque[CachedTile]) -> CachedTile:
    """Draw one tile."""
    return tiles[int(rng.integers(len(tiles)))]


def compose_page(cache: FeatureCache, rng: Rng) -> tuple[Scene, list[CachedTile]]:
    """Compose a page: six tiles with three to six different fields, filled up with blank ones, and a thumbnail."""
    fields: dict[int, str] = {}
    chosen: list[CachedTile] = []
    field_count = int(rng.integers(3, 7))
    for _ in range(MAX_PAGE_DRAWS):
        tile = sample_tile(rng, cache.print_tiles)
        new = tile.scene.fields
        is_full = len(chosen) == PAGE_TILES or len(fields) == field_count
        if not is_full and not fields.keys() & new.keys() and len(fields) + len(new) <= field_count:
            chosen.append(tile)
            fields |= new
    chosen += [sample_tile(rng, cache.blank_tiles) for _ in range(PAGE_TILES - len(chosen))]
    chosen = [chosen[int(i)] for i in rng.permutation(PAGE_TILES)]
    return Scene(chosen[0].scene.image, fields=fields), [*chosen, sample_tile(rng, cache.thumbnails)]
