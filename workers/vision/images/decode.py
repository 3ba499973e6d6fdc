"""Decodes the bytes of an image and cuts it into the uint8 tiles that the model sees.

Runs in a decoder process (`decoder_process`): its input is untrusted.

natural   what a viewer shows: orientation and colour profile applied, transparency over white, the range of the
          samples scaled to 8 bits, the first frame, a truncated file as far as it goes
original  `convert("RGB")` and nothing else, as the model card's code; the same bytes for plain RGB images
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shared.images import SNIFF_BYTES, ImageLimits, accepted_formats, accepted_names, sniff
from shared.imaging.fault import fault
from shared.imaging.opening import configure_pillow, open_image
from shared.imaging.orientation import upright
from shared.tiling import Grid, grid, tile_count
from workers.vision.images.colour import to_srgb
from workers.vision.images.resampler import Resampler, resize_with_pillow
from workers.vision.images.samples import is_wide, scale_colours, to_eight_bits, transparent_samples
from workers.vision.images.truncated import is_truncation, load_truncated

WHITE = (255, 255, 255, 255)


class MemoryShortage(Exception):
    """The process may not have the memory that this image needs; the image is not at fault."""


class DecodeError(Exception):
    """The image is at fault and no retry will decode it; `code` is that of the job's error."""

    def __init__(self, reason: str, code: str = "undecodable_image") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@dataclass(frozen=True)
class DecodedImage:
    """An image in RGB, and what people should know of how it was decoded."""

    image: Image.Image
    warning: str | None = None


@dataclass(frozen=True)
class TilePlan:
    """A decoded image and the grid that it will be cut into."""

    image: Image.Image
    grid: Grid
    tiles: int  #: thumbnail included


def configure(limits: ImageLimits) -> None:
    """Set Pillow's process-wide limits."""
    configure_pillow(limits)
    warnings.filterwarnings(
        "ignore", module="PIL"
    )  # about the metadata of images; a log line each, with bytes of theirs
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def decode(data: bytes, limits: ImageLimits) -> DecodedImage:
    """Decode to RGB. Raises `MemoryShortage`, and `DecodeError` for the eight kinds of errors of Pillow's decoders."""
    try:
        return _decode(data, limits)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = f"it has more than {limits.max_pixels} pixels ({fault(error)})"
        raise DecodeError(reason, "image_too_many_pixels") from error
    except MemoryError as error:
        raise MemoryShortage("decoding") from error
    except UnidentifiedImageError as error:
        raise DecodeError(f"it is not a complete image of an accepted format ({accepted_names()})") from error
    except Exception as error:
        if "out of memory" in str(error).lower():  # how Pillow reports a failed malloc of a codec
            raise MemoryShortage("decoding") from error
        raise DecodeError(f"it is broken: {fault(error)}") from error


def as_displayed(image: Image.Image) -> Image.Image:
    """Return a loaded `image` in RGB as a viewer shows it."""
    profile = image.info.get("icc_profile")
    if is_wide(image):
        alpha = transparent_samples(image)
        return upright_over_white(image, to_srgb(to_eight_bits(image), profile), alpha)
    if not image.has_transparency_data and image.mode not in ("La", "RGBa"):
        return upright_over_white(image, to_srgb(image, profile), None)
    layer = image.convert("RGBA")
    alpha = layer.getchannel("A")
    colours = layer.getchannel("R") if image.mode in ("L", "LA", "La") else layer.convert("RGB")
    if image.format == "BMP" and alpha.getextrema() == (0, 0):
        alpha = None  # as viewers do: programs that know no alpha leave it 0
    return upright_over_white(image, to_srgb(colours, profile), alpha)


def upright_over_white(image: Image.Image, colours: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Return `colours` over white where `alpha` says so, turned as the metadata of `image` says."""
    if alpha is not None:
        colours.putalpha(alpha)
        colours = Image.alpha_composite(Image.new("RGBA", colours.size, WHITE), colours).convert("RGB")
    return upright(image, colours)


def plan_tiles(image: Image.Image, max_tiles: int, thumbnail: bool, side: int) -> TilePlan:
    """Choose the grid for tiles of `side` pixels."""
    chosen = grid(*image.size, max_tiles, side)
    return TilePlan(image, chosen, tile_count(chosen, thumbnail))


def write_tiles(
    plan: TilePlan, side: int, allocate: Callable[[int], memoryview], resampler: Resampler | None = None
) -> NDArray[np.uint8]:
    """Write the tiles into what `allocate(bytes)` returns, row by row and the thumbnail last; (T, side, side, 3)."""
    columns, rows = plan.grid
    tiles = np.frombuffer(allocate(plan.tiles * side * side * 3), np.uint8).reshape(plan.tiles, side, side, 3)
    parts = [(plan.grid, tiles[: columns * rows])]
    if plan.tiles > columns * rows:
        parts.append(((1, 1), tiles[-1:]))
    if resampler:
        pixels = np.asarray(plan.image)
        for grid_of_part, part in parts:
            resampler.resize(pixels, grid_of_part, part)
    else:
        for grid_of_part, part in parts:
            resize_with_pillow(plan.image, grid_of_part, part)
    return tiles


def _decode(data: bytes, limits: ImageLimits) -> DecodedImage:
    media_type = sniff(data[:SNIFF_BYTES])
    if media_type not in accepted_formats():
        raise UnidentifiedImageError
    with open_image(io.BytesIO(data), media_type) as opened:
        if opened.width * opened.height > limits.max_pixels:
            raise Image.DecompressionBombError(f"{opened.width}x{opened.height}")
        if limits.mode == "original":
            opened.load()
            return DecodedImage(opened.convert("RGB"))
        image, warning = _load(opened, data, media_type, limits.max_missing_rows)
        if warning is None:  # the lower bytes of a truncated file can't be read again
            scale_colours(image, lambda: open_image(io.BytesIO(data), media_type))
        return DecodedImage(as_displayed(image), warning)


def _load(opened: Image.Image, data: bytes, media_type: str, max_missing_rows: float) -> tuple[Image.Image, str | None]:
    try:
        opened.load()
    except OSError as error:
        if not max_missing_rows or not is_truncation(error):
            raise
        if found := load_truncated(lambda file: open_image(io.BytesIO(file), media_type), data, max_missing_rows):
            return found
        raise
    return opened, None
