"""Scenes follow from their seed and show what their annotations say."""

from collections import Counter

import numpy as np
import pytest

from infra.demo_model import seeds
from infra.demo_model.scenes import (
    MIN_CENTRE_DISTANCE_PX,
    PAGE_SIZE_PX,
    TILE_PX,
    Scene,
    mixed_scene,
    page_scene,
    repeated_shapes_scene,
    shapes_scene,
)


def test_the_same_stream_draws_the_same_image() -> None:
    first, second = (mixed_scene(seeds.check(11)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert first.shapes == second.shapes
    assert first.number == second.number


@pytest.mark.parametrize("n", range(12))
def test_the_order_of_shapes_is_never_in_doubt(n: int) -> None:
    shapes = shapes_scene(seeds.check(1, n)).shapes
    for i, one in enumerate(shapes):
        for other in shapes[:i]:
            assert abs(one.x - other.x) >= MIN_CENTRE_DISTANCE_PX
            assert abs(one.y - other.y) >= MIN_CENTRE_DISTANCE_PX


@pytest.mark.parametrize("n", range(12))
def test_a_page_has_three_to_six_fields_and_none_crosses_a_border_of_tiles(n: int) -> None:
    page = page_scene(seeds.check(2, n))
    assert page.image.shape == (PAGE_SIZE_PX[1], PAGE_SIZE_PX[0], 3)
    assert 3 <= len(page.fields) <= 6
    for glyph in page.glyphs:
        x0, y0, x1, y1 = glyph.box
        assert x0 // TILE_PX == (x1 - 1) // TILE_PX
        assert y0 // TILE_PX == (y1 - 1) // TILE_PX


def count_with_three_alike(scenes: list[Scene]) -> int:
    """How many of `scenes` have three shapes of one kind or of one colour."""
    counters = [[Counter(s.kind for s in scene.shapes), Counter(s.colour for s in scene.shapes)] for scene in scenes]
    return sum(max(*kinds.values(), *colours.values()) >= 3 for kinds, colours in counters)


def test_repeated_shapes_have_a_kind_or_a_colour_in_common() -> None:
    repeated, independent = (
        [draw(seeds.check(8, n)) for n in range(60)] for draw in (repeated_shapes_scene, shapes_scene)
    )
    assert all(2 <= len(scene.shapes) <= 5 for scene in repeated)
    assert count_with_three_alike(repeated) > 1.5 * count_with_three_alike(independent) > 0
