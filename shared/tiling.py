"""Dynamic tiling of an image as arithmetic on its size, so that intake counts tiles from an image header.

    grid(1920, 1080, max_tiles=12)      -> (4, 2)      columns, rows
    tile_count((4, 2), thumbnail=True)  -> 9           the thumbnail comes last, unless there is one tile

The model card chooses with floats and a tie rule (dynamic_preprocess, find_closest_aspect_ratio), and both are kept:
an image whose shape is between two grids gets the same grid here.
"""

from functools import lru_cache

TILE = 448  #: Side of a tile in pixels, for every released model of the family.

Grid = tuple[int, int]  #: columns, rows


@lru_cache(maxsize=64)
def grids(max_tiles: int) -> tuple[Grid, ...]:
    """All grids of at most `max_tiles` tiles, by area. The order within one area can't matter (internvl.md, 6.3)."""
    if max_tiles < 1:
        raise ValueError(f"max_tiles must be at least 1, not {max_tiles}")
    every = [(columns, rows) for columns in range(1, max_tiles + 1) for rows in range(1, max_tiles // columns + 1)]
    return tuple(sorted(every, key=lambda grid: grid[0] * grid[1]))


def grid(width: int, height: int, max_tiles: int, tile: int = TILE) -> Grid:
    """Choose the grid whose shape is nearest to `width`/`height`.

    A later (larger) grid of the same distance wins only if the image covers more than half of its area.
    """
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width}x{height} pixels has no tiles")
    aspect, area = width / height, width * height
    nearest, best = float("inf"), (1, 1)
    for columns, rows in grids(max_tiles):
        distance = abs(aspect - columns / rows)
        if distance < nearest:
            nearest, best = distance, (columns, rows)
        elif distance == nearest and area > 0.5 * tile * tile * columns * rows:
            best = (columns, rows)
    return best


def tile_count(chosen: Grid, thumbnail: bool) -> int:
    """Tiles the model is fed for `chosen`, the thumbnail included."""
    cells = chosen[0] * chosen[1]
    return cells + 1 if thumbnail and cells > 1 else cells
