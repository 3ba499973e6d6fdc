"""PNGs for people of what the model sees of an image: the grid of tiles, and the thumbnail beside it."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.vision.images.decoder_pool import TiledImage

TILE_GAP = 8  #: pixels between tiles
BACKGROUND = (255, 255, 255)
PREVIEW_SIDE = 112  #: pixels of a side of a tile in a stored preview


def preview(image: TiledImage) -> bytes:
    """Return a small PNG of the tiles of `image`."""
    factor = max(1, image.tiles.shape[1] // PREVIEW_SIDE)
    small = [np.asarray(Image.fromarray(tile).reduce(factor)) for tile in image.tiles]
    return draw_tiles(np.stack(small), image.grid)


def draw_tiles(tiles: NDArray[np.uint8], grid: tuple[int, int]) -> bytes:
    """Return a PNG of `tiles`, (T, side, side, 3), at their places in `grid`, the thumbnail to their right."""
    columns, rows = grid
    side = tiles.shape[1]
    step = side + TILE_GAP
    thumbnail = len(tiles) > columns * rows
    size = (columns * step - TILE_GAP + (step + TILE_GAP if thumbnail else 0), rows * step - TILE_GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    for place, tile in enumerate(tiles[: columns * rows]):
        sheet.paste(Image.fromarray(np.asarray(tile)), (place % columns * step, place // columns * step))
    if thumbnail:
        sheet.paste(Image.fromarray(np.asarray(tiles[-1])), (columns * step + TILE_GAP, 0))
    written = io.BytesIO()
    sheet.save(written, "PNG", compress_level=1)  # a quarter of level 6's time, for a file a tenth larger
    return written.getvalue()
