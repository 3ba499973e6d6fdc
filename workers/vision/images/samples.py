"""Grey images of more than 8 bits a pixel (modes I;16, I and F of Pillow) to 8 bits.

PNG defines the range: 65535 is white. TIFF does not: what is white depends on the device that made the image. There
the smallest usual range that holds all values is taken, so that 12 bits in a 16-bit file are not shown nearly black.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

_USUAL_WHITES = (255, 1023, 4095, 16383, 65535)  #: of 8, 10, 12, 14 and 16 bits
_PNG_WHITE = 65535
_PHOTOMETRIC, _MIN_IS_WHITE = 262, 0
_BLOCK_ROWS = 512

Samples = NDArray[np.generic]  #: (height, width)


def is_wide(image: Image.Image) -> bool:
    """Return whether the samples of `image` have more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def to_eight_bits(image: Image.Image) -> Image.Image:
    """Return a wide `image` in mode L. Raises `ValueError` if no sample is a number."""
    samples: Samples = np.asarray(image)
    low, high = _range(samples, image)
    grey = np.empty(samples.shape, np.uint8)
    for rows in _blocks(samples):
        finite = np.nan_to_num(samples[rows].astype(np.float64), posinf=high, neginf=low)
        scaled = (finite - low) * 255 / (high - low)
        grey[rows] = np.clip(scaled + 0.5, 0, 255)
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _is_inverted(image):
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey)


def transparent_samples(image: Image.Image) -> Image.Image | None:
    """Return a mask, 0 where a wide image is transparent; None if it is nowhere."""
    value = image.info.get("transparency")
    if not isinstance(value, int):
        return None
    return Image.fromarray(np.where(np.asarray(image) == value, 0, 255).astype(np.uint8))


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


def _blocks(samples: Samples) -> Iterator[slice]:
    """A few rows at a time: the copies that numpy makes stay small."""
    for start in range(0, len(samples), _BLOCK_ROWS):
        yield slice(start, start + _BLOCK_ROWS)


def _is_inverted(image: TiffImagePlugin.TiffImageFile) -> bool:
    return bool(image.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE)
