"""Bytes of a picture to the uint8 tiles that the model sees. Runs in the sandbox: it is fed what nobody vouches for.

natural   what people expect: EXIF turned, white under transparency, 16 bits scaled, first frame
original  `convert("RGB")` and nothing else, as the card's code; the same bytes for plain RGB pictures
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from shared.tiling import Grid, grid, tile_count

Mode = Literal["natural", "original"]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
WHITE = (255, 255, 255, 255)


class UndecodableImage(Exception):
    """A picture that no retry will decode; `code` is that of the job's error."""

    def __init__(self, reason: str, code: str = "undecodable_image") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@dataclass(frozen=True)
class Limits:
    """What a picture may be and how it is read."""

    mode: Mode
    max_pixels: int
    side: int  #: of a tile


@dataclass(frozen=True)
class Cut:
    """A decoded picture and the grid it will be cut into."""

    picture: Image.Image
    grid: Grid
    tiles: int


def arm(limits: Limits) -> None:
    """Set Pillow's process-wide guards."""
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode(data: bytes, limits: Limits) -> Image.Image:
    """Decode to RGB. Raises `UndecodableImage` for whatever goes wrong: Pillow's decoders raise eight kinds."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            if opened.width * opened.height > limits.max_pixels:
                raise Image.DecompressionBombError(f"{opened.width}x{opened.height}")
            opened.load()
            return natural(opened) if limits.mode == "natural" else opened.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = f"it has more than {limits.max_pixels} pixels ({error})"
        raise UndecodableImage(reason, "image_too_many_pixels") from error
    except MemoryError as error:
        raise UndecodableImage("decoding it takes more memory than a picture is given") from error
    except UnidentifiedImageError as error:
        raise UndecodableImage(f"it is no whole picture of {', '.join(FORMATS)}") from error
    except Exception as error:
        raise UndecodableImage(f"it is broken: {error or type(error).__name__}"[:300]) from error


def natural(image: Image.Image) -> Image.Image:
    """`image` as a viewer would show it."""
    image = _turned(image)
    if image.mode.startswith("I"):
        return _scaled(image)
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    return image.convert("RGB")


def _turned(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing of how to turn the picture, which is whole
        return image


def _scaled(image: Image.Image) -> Image.Image:
    """16 bits to 8 by 1/257, rounded; `convert` would clip instead, and show anything above 255 as white."""
    wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")


def plan(picture: Image.Image, max_tiles: int, thumbnail: bool, side: int) -> Cut:
    """Choose the grid."""
    chosen = grid(*picture.size, max_tiles, side)
    return Cut(picture, chosen, tile_count(chosen, thumbnail))


def cut(planned: Cut, side: int, room: Callable[[int], memoryview]) -> NDArray[np.uint8]:
    """Write the tiles, row by row and the thumbnail last, into what `room(bytes)` gives; (T, side, side, 3)."""
    columns, rows = planned.grid
    tiles = np.frombuffer(room(planned.tiles * side * side * 3), np.uint8).reshape(planned.tiles, side, side, 3)
    whole = np.asarray(planned.picture.resize((side * columns, side * rows), Image.Resampling.BICUBIC))
    # (rows, side, columns, side, 3) -> (rows, columns, side, side, 3)
    tiles[: columns * rows] = (
        whole.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
    )
    if planned.tiles > columns * rows:
        tiles[-1] = np.asarray(planned.picture.resize((side, side), Image.Resampling.BICUBIC))
    return tiles
