"""Images of a job on their way from object storage to tiles."""

from shared.requests import StoredImage
from shared.storage import MemoryStorage
from workers.vision.images.decoder_pool import TiledImage
from workers.vision.images.pipeline import HeaderOnlyImages


class Unaborted:
    """An attempt that is to go on."""

    def check(self) -> None:
        pass


class NoTiler:
    """A tiler that must not be called."""

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        raise AssertionError("the image was decoded")


def test_images_taken_at_their_headers_word_have_as_many_tiles_and_are_not_decoded() -> None:
    images = HeaderOnlyImages(MemoryStorage(), NoTiler(), threads=1)
    stored = StoredImage(
        key="k", media_type="image/png", bytes=1, width=9, height=6, sha256="", max_tiles=6, grid=(3, 2), tiles=7
    )
    (tiled,) = images.tile(Unaborted(), [stored], [b"not an image"], thumbnail=True)
    assert (tiled.tiles.shape, tiled.grid) == ((7, 448, 448, 3), (3, 2))
    assert images.store_previews("job", [tiled]) == []
    images.close()
