"""Decodes the bytes of an image and cuts it into the uint8 tiles that the model sees.

Runs in a decoder process (`decoder_process`): its input is untrusted.

natural   what a viewer shows: EXIF orientation applied, transparency over white, 16 bits scaled, first frame
original  `convert("RGB")` and nothing else, as the model card's code; the same bytes for plain RGB images
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from shared.images import ACCEPTED, PILLOW_FORMATS, ImageLimits
from shared.tiling import Grid, grid, tile_count

WHITE = (255, 255, 255, 255)
MAX_REASON_CHARACTERS = 300  #: of Pillow's own message


class MemoryShortage(Exception):
    """The process may not have the memory that this image needs; the image is not at fault."""


class DecodeError(Exception):
    """The image is at fault and no retry will decode it; `code` is that of the job's error."""

    def __init__(self, reason: str, code: str = "undecodable_image") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@dataclass(frozen=True)
class TilePlan:
    """A decoded image and the grid that it will be cut into."""

    image: Image.Image
    grid: Grid
    tiles: int  #: thumbnail included


def configure_pillow(limits: ImageLimits) -> None:
    """Set Pillow's process-wide limits."""
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode(data: bytes, limits: ImageLimits) -> Image.Image:
    """Decode to RGB. Raises `DecodeError` for every exception of Pillow's decoders, which are of eight kinds."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(PILLOW_FORMATS.values())) as opened:
            if opened.width * opened.height > limits.max_pixels:
                raise Image.DecompressionBombError(f"{opened.width}x{opened.height}")
            opened.load()
            return as_displayed(opened) if limits.mode == "natural" else opened.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = f"it has more than {limits.max_pixels} pixels ({error})"
        raise DecodeError(reason, "image_too_many_pixels") from error
    except MemoryError as error:
        raise MemoryShortage("decoding") from error
    except UnidentifiedImageError as error:
        raise DecodeError(f"it is not a complete {ACCEPTED} image") from error
    except Exception as error:
        if "out of memory" in str(error).lower():  # how Pillow reports a failed malloc of a codec
            raise MemoryShortage("decoding") from error
        raise DecodeError(f"it is broken: {error or type(error).__name__}"[:MAX_REASON_CHARACTERS]) from error


def as_displayed(image: Image.Image) -> Image.Image:
    """Return `image` in RGB as a viewer shows it."""
    image = _upright(image)
    if image.mode.startswith("I"):
        return _scaled(image)
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, WHITE), layer).convert("RGB")
    return image.convert("RGB")


def plan_tiles(image: Image.Image, max_tiles: int, thumbnail: bool, side: int) -> TilePlan:
    """Choose the grid for tiles of `side` pixels."""
    chosen = grid(*image.size, max_tiles, side)
    return TilePlan(image, chosen, tile_count(chosen, thumbnail))


def write_tiles(plan: TilePlan, side: int, allocate: Callable[[int], memoryview]) -> NDArray[np.uint8]:
    """Write the tiles into what `allocate(bytes)` returns, row by row and the thumbnail last; (T, side, side, 3)."""
    columns, rows = plan.grid
    tiles = np.frombuffer(allocate(plan.tiles * side * side * 3), np.uint8).reshape(plan.tiles, side, side, 3)
    whole = np.asarray(plan.image.resize((side * columns, side * rows), Image.Resampling.BICUBIC))
    # (rows, side, columns, side, 3) -> (rows, columns, side, side, 3)
    tiles[: columns * rows] = (
        whole.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4).reshape(-1, side, side, 3)
    )
    if plan.tiles > columns * rows:
        tiles[-1] = np.asarray(plan.image.resize((side, side), Image.Resampling.BICUBIC))
    return tiles


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block does not tell an orientation; the pixels are whole
        return image


def _scaled(image: Image.Image) -> Image.Image:
    """16 bits to 8 by 1/257, rounded; `convert` would clip instead, and show anything above 255 as white."""
    wide = np.clip(np.asarray(image), 0, 65535).astype(np.uint32)
    return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
