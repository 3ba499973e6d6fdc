"""What the model sees of an image, drawn for people."""

import io

import numpy as np
import pytest
from PIL import Image

from workers.vision.images.decoder_pool import TiledImage
from workers.vision.images.preview import BACKGROUND, PREVIEW_SIDE, TILE_GAP, preview


@pytest.mark.parametrize("thumbnail", [True, False])
@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 2), (1, 4)])
def test_a_view_shows_every_tile_at_its_place_and_the_thumbnail_beside(
    columns: int, rows: int, thumbnail: bool
) -> None:
    count = columns * rows + thumbnail
    tiles = np.zeros((count, 448, 448, 3), np.uint8)
    tiles[..., 0] = np.arange(count).reshape(-1, 1, 1) * 10
    sheet = Image.open(io.BytesIO(preview(TiledImage(tiles, (columns, rows), 1000, 1000)))).convert("RGB")
    step, half = PREVIEW_SIDE + TILE_GAP, PREVIEW_SIDE // 2
    for n in range(columns * rows):
        assert sheet.getpixel((n % columns * step + half, n // columns * step + half)) == (10 * n, 0, 0)
    if thumbnail:
        assert sheet.getpixel((columns * step + TILE_GAP + half, half)) == (10 * (count - 1), 0, 0)
        assert sheet.getpixel((columns * step - TILE_GAP // 2, half)) == BACKGROUND
    else:
        assert sheet.size == (columns * step - TILE_GAP, rows * step - TILE_GAP)
