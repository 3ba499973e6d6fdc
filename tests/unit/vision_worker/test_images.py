"""What the model sees of a picture, for people."""

import io

import numpy as np
import pytest
from PIL import Image

from shared.requests import StoredImage
from shared.storage import MemoryStorage
from workers.vision.images import CELL, Unseen, view
from workers.vision.render import GAP, PAPER
from workers.vision.sandbox import Tiled


@pytest.mark.parametrize("thumbnail", [True, False])
@pytest.mark.parametrize(("columns", "rows"), [(1, 1), (3, 2), (1, 4)])
def test_a_view_shows_every_tile_at_its_place_and_the_thumbnail_beside(
    columns: int, rows: int, thumbnail: bool
) -> None:
    count = columns * rows + thumbnail
    tiles = np.zeros((count, 448, 448, 3), np.uint8)
    tiles[..., 0] = np.arange(count).reshape(-1, 1, 1) * 10
    sheet = Image.open(io.BytesIO(view(Tiled(tiles, (columns, rows), 1000, 1000)))).convert("RGB")
    step, half = CELL + GAP, CELL // 2
    for n in range(columns * rows):
        assert sheet.getpixel((n % columns * step + half, n // columns * step + half)) == (10 * n, 0, 0)
    if thumbnail:
        assert sheet.getpixel((columns * step + GAP + half, half)) == (10 * (count - 1), 0, 0)
        assert sheet.getpixel((columns * step - GAP // 2, half)) == PAPER
    else:
        assert sheet.size == (columns * step - GAP, rows * step - GAP)


def test_pictures_taken_at_their_headers_word_have_as_many_tiles_and_are_not_looked_at() -> None:
    images = Unseen(MemoryStorage(), sandbox=None, threads=1)  # type: ignore[arg-type]
    stored = StoredImage(
        key="k", media_type="image/png", bytes=1, width=9, height=6, sha256="", max_tiles=6, grid=(3, 2), tiles=7
    )
    (tiled,) = images.tile(None, [stored], [b"no picture"], thumbnail=True)  # type: ignore[arg-type]
    assert (tiled.tiles.shape, tiled.grid) == ((7, 448, 448, 3), (3, 2))
    assert images.show("job", [tiled]) == []
    images.close()
