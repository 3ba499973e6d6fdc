"""The grid of a picture is the card's, on every border."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.tiling import Grid, grid, grids, tile_count

SIDES = st.integers(1, 12_000)


def card(width: int, height: int, max_num: int) -> Grid:
    """`find_closest_aspect_ratio` and its caller as the model card prints them."""
    ratios = {
        (i, j)
        for n in range(1, max_num + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if i * j <= max_num and i * j >= 1
    }
    best_ratio_diff, best_ratio, area = float("inf"), (1, 1), width * height
    for ratio in sorted(ratios, key=lambda x: x[0] * x[1]):
        ratio_diff = abs(width / height - ratio[0] / ratio[1])
        if ratio_diff < best_ratio_diff:
            best_ratio_diff, best_ratio = ratio_diff, ratio
        elif ratio_diff == best_ratio_diff and area > 0.5 * 448 * 448 * ratio[0] * ratio[1]:
            best_ratio = ratio
    return best_ratio


@given(SIDES, SIDES, st.integers(1, 40))
def test_any_picture_gets_the_grid_of_the_card(width: int, height: int, max_tiles: int) -> None:
    assert grid(width, height, max_tiles) == card(width, height, max_tiles)


@pytest.mark.parametrize("scale", [40, 80, 100, 160, 240, 400, 900])
@pytest.mark.parametrize(
    ("width", "height"), [(5, 4), (4, 5), (5, 2), (1, 1), (2, 1), (7, 4), (9, 2), (40, 1), (1, 99)]
)
def test_pictures_between_two_grids_fall_on_the_cards_side(width: int, height: int, scale: int) -> None:
    for max_tiles in (1, 2, 6, 12, 24, 40):
        assert grid(width * scale, height * scale, max_tiles) == card(width * scale, height * scale, max_tiles)


@pytest.mark.parametrize(
    ("size", "max_tiles", "chosen"),
    [
        ((640, 480), 6, (3, 2)),
        ((640, 480), 12, (4, 3)),
        ((1024, 1024), 40, (3, 3)),
        ((1920, 1080), 12, (4, 2)),
        ((1920, 1080), 40, (7, 4)),
        ((1240, 1754), 40, (5, 7)),
        ((600, 600), 12, (1, 1)),
        ((6000, 100), 40, (40, 1)),
    ],
)
def test_well_known_sizes(size: tuple[int, int], max_tiles: int, chosen: Grid) -> None:
    assert grid(*size, max_tiles) == chosen


def test_the_thumbnail_comes_on_top_unless_it_would_be_alone() -> None:
    assert tile_count((4, 3), thumbnail=True) == 13
    assert tile_count((4, 3), thumbnail=False) == 12
    assert tile_count((1, 1), thumbnail=True) == 1


def test_there_are_as_many_grids_as_the_research_counted() -> None:
    assert (len(grids(12)), len(grids(40))) == (35, 158)


def test_a_picture_without_pixels_and_no_tiles_are_refused() -> None:
    with pytest.raises(ValueError, match="0x10"):
        grid(0, 10, 12)
    with pytest.raises(ValueError, match="max_tiles"):
        grid(10, 10, 0)
