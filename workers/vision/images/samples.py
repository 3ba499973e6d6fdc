"""Samples of more than 8 bits to 8 bits: grey images (modes I;16, I and F of Pillow), and colours of 16 bits in TIFF.

PNG defines the range: 65535 is white. TIFF does not: what is white depends on the device that made the image. There
the smallest usual range that holds all values is taken, so that 12 bits in a 16-bit file are not shown nearly black.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

_USUAL_WHITES = (255, 1023, 4095, 16383, 65535)  #: of 8, 10, 12, 14 and 16 bits
_PNG_WHITE = 65535
_PHOTOMETRIC, _MIN_IS_WHITE = 262, 0
_SAMPLE_FORMAT, _UNSIGNED = 339, 1
_OTHER_BYTE = {"L": "B", "B": "L", "N": "B"}  #: Pillow's name of the other byte order; N is that of this machine
_BLOCK_ROWS = 512
_MAX_DARK_BYTE = 63  # upper byte of 14 bits

Samples = NDArray[np.generic]  #: (height, width)


def is_wide(image: Image.Image) -> bool:
    """Return whether the samples of `image` have more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Return a wide `image` in mode L. Raises `ValueError` if no sample is a number."""
    samples = _samples(image)
    low, high = _range(samples, image)
    grey = np.empty(samples.shape, np.uint8)
    for rows in _blocks(samples):
        finite = np.nan_to_num(samples[rows].astype(np.float64), posinf=high, neginf=low)
        scaled = (finite - low) * 255 / (high - low)
        grey[rows] = np.clip(scaled + 0.5, 0, 255)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_inverted(image):
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey)


def scale_colours(image: Image.Image, open_image: Callable[[], Image.Image]) -> None:
    """Scale the colours of a loaded TIFF of 16 bits in place if they use the lower bits only.

    Pillow keeps the upper byte of each sample. The lower one is what it reads in the other byte order.
    """
    if image.format != "TIFF" or image.mode not in ("RGB", "RGBA"):
        return
    upper = np.asarray(image)[..., :3]
    if upper.max(initial=0) > _MAX_DARK_BYTE or (lower := _lower_bytes(open_image())) is None:
        return
    colours = Image.fromarray(_scale_joined(upper, lower))
    if image.mode == "RGBA":
        colours.putalpha(image.getchannel("A"))
    image.paste(colours)


def _scale_joined(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Both bytes of each sample to 8 bits, by the smallest usual range that holds all."""
    joined = [upper[rows].astype(np.uint16) * 256 + lower[rows] for rows in _blocks(upper)]
    highest = max(int(block.max()) for block in joined)
    white = next(white for white in _USUAL_WHITES if highest <= white)
    scaled = np.empty(upper.shape, np.uint8)
    for rows, block in zip(_blocks(upper), joined, strict=True):
        scaled[rows] = block.astype(np.float32) * (255 / white) + 0.5
    return scaled


def _lower_bytes(image: Image.Image) -> NDArray[np.uint8] | None:
    """The lower bytes of a TIFF's colours, (height, width, 3); None if they have 8 bits."""
    assert isinstance(image, ImageFile.ImageFile)  # noqa: S101  # Pillow's plugins all are
    tiles = []
    for tile in image.tile:
        parameters = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        rawmode, _, order = str(parameters[0]).rpartition(";16")
        if not rawmode:
            return None
        tiles.append(tile._replace(args=(f"{rawmode};16{_OTHER_BYTE[order]}", *parameters[1:])))
    image.tile = tiles
    image.load()
    return np.asarray(image)[..., :3]


def transparent_samples(image: Image.Image) -> Image.Image | None:
    """Return a mask, 0 where a wide image is transparent; None if it is nowhere."""
    value = image.info.get("transparency")
    if not isinstance(value, int):
        return None
    return Image.fromarray(np.where(np.asarray(image) == value, 0, 255).astype(np.uint8))


def _samples(image: Image.Image) -> Samples:
    """The samples; Pillow takes those of 32 bits for signed."""
    samples: Samples = np.asarray(image)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode == "I":
        (kind,) = {*image.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))}
        return samples.view(np.uint32) if kind == _UNSIGNED else samples
    return samples


def _range(samples: Samples, image: Image.Image) -> tuple[float, float]:
    """What is black and what is white."""
    if image.format == "PNG":
        return 0, _PNG_WHITE
    low, high = _extremes(samples)
    if low < 0:
        return low, max(high, low + 1)
    if samples.dtype.kind == "f":
        return 0, max(high, 1.0)
    return 0, next((white for white in _USUAL_WHITES if high <= white), high)


def _extremes(samples: Samples) -> tuple[float, float]:
    blocks: list[NDArray[Any]] = [samples[rows] for rows in _blocks(samples)]
    finite = [block[np.isfinite(block)] for block in blocks]
    found = [block for block in finite if block.size]
    if not found:
        raise ValueError("none of its samples is a number")
    return min(float(block.min()) for block in found), max(float(block.max()) for block in found)


def _blocks(samples: NDArray[Any]) -> Iterator[slice]:
    """A few rows at a time: the copies that numpy makes stay small."""
    for start in range(0, len(samples), _BLOCK_ROWS):
        yield slice(start, start + _BLOCK_ROWS)


def _is_inverted(image: TiffImagePlugin.TiffImageFile) -> bool:
    return bool(image.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE)
