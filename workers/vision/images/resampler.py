"""`resample.c`: Pillow's bicubic resize straight into tiles, several times as fast and the same bytes.

The worker compiles it, or reads what its container image has compiled, and hands the descriptor to the decoder
processes. Each of them compares it with the installed Pillow before it uses it, and resizes with Pillow where there is
none or a byte differs.
"""

import ctypes
import logging
import random
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workers.vision.compiler import X86_64_V3, CompilerUnavailable, compiled_library

SOURCE = Path(__file__).with_name("resample.c")
#: Compiled into the container images, which have no compiler; there is none beside a checkout.
PREBUILT = SOURCE.with_suffix(".so")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off")
#: (width, height), (columns, rows) and side of the tiles that are compared with Pillow's: smaller, larger, equal in one
#: direction, and a height that shrinks so much that Pillow begins with the columns.
CHECKS = (
    ((101, 67), (2, 1), 28),
    ((45, 31), (3, 2), 28),
    ((56, 90), (2, 3), 28),
    ((60, 211), (2, 1), 28),
    ((9, 300), (1, 2), 28),
)

logger = logging.getLogger(__name__)


class ResamplerDiffers(Exception):
    """The compiled code doesn't give Pillow's bytes on this machine."""


@cache
def library() -> int:
    """Return the descriptor of the library, one for the life of this process. Raises `CompilerUnavailable`."""
    return compiled_library((SOURCE,), FLAGS, ((PREBUILT, X86_64_V3),))


def library_or_none() -> int | None:
    """Return `library`, or None where it can't be compiled; the log says why."""
    try:
        return library()
    except CompilerUnavailable as error:
        logger.warning("resample.c can't be compiled: %s", error)
        return None


class Resampler:
    """The library of an open descriptor. Raises `OSError` if it can't be loaded, `ResamplerDiffers` if it is wrong."""

    def __init__(self, descriptor: int) -> None:
        self._resize = ctypes.CDLL(f"/proc/self/fd/{descriptor}").resize_into_tiles
        self._resize.argtypes = [ctypes.c_void_p, *[ctypes.c_long] * 5, ctypes.c_void_p]
        self._compare_with_pillow()

    def resize(self, pixels: NDArray[np.uint8], grid: tuple[int, int], tiles: NDArray[np.uint8]) -> None:
        """Resize (height, width, 3) to `grid`, (columns, rows), of `tiles` (T, side, side, 3). Raises `MemoryError`."""
        height, width, _ = pixels.shape
        count, side, _, _ = tiles.shape
        columns, rows = grid
        contiguous = pixels.flags.c_contiguous and tiles.flags.c_contiguous
        if not contiguous or count != columns * rows:
            raise ValueError(f"pixels and tiles must be contiguous, and {columns * rows} tiles, not {count}")
        if self._resize(pixels.ctypes.data, width, height, columns, rows, side, tiles.ctypes.data):
            raise MemoryError

    def _compare_with_pillow(self) -> None:
        noise = random.Random(0)  # numpy.random would be 6 MB of memory more
        for (width, height), grid, side in CHECKS:
            pixels = np.frombuffer(noise.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
            found, expected = (np.empty((grid[0] * grid[1], side, side, 3), np.uint8) for _ in range(2))
            self.resize(pixels, grid, found)
            resize_with_pillow(Image.fromarray(pixels), grid, expected)
            if (found != expected).any():
                raise ResamplerDiffers(f"resample.c and Pillow differ for {width}x{height} to {grid} tiles of {side}")


def resize_with_pillow(image: Image.Image, grid: tuple[int, int], tiles: NDArray[np.uint8]) -> None:
    """Do what `Resampler.resize` does, as the model card's code does it."""
    side = tiles.shape[1]
    columns, rows = grid
    whole = np.asarray(image.resize((side * columns, side * rows), Image.Resampling.BICUBIC))
    # (rows, side, columns, side, 3) -> (rows, columns, side, side, 3)
    cut = whole.reshape(rows, side, columns, side, 3).transpose(0, 2, 1, 3, 4)
    tiles.reshape(rows, columns, side, side, 3)[:] = cut
