"""Processes that decode pictures nobody vouches for, so that a decoder's bug or a bomb costs one picture.

    Sandbox.tile(bytes) ──shared memory──> sandboxed.main (Pillow, limits) ──shared memory──> Tiled
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Mode = Literal["natural", "original"]


class UndecodableImage(Exception):
    """A picture that no retry will decode; `code` is that of the job's error."""

    def __init__(self, reason: str, code: str = "undecodable_image") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@dataclass(frozen=True)
class Tiled:
    """A picture as the model takes it in."""

    tiles: NDArray[np.uint8]  #: (T, 448, 448, 3), row by row, the thumbnail last
    grid: tuple[int, int]  #: columns, rows
    width: int  #: of the picture as it was tiled, turned if EXIF said so
    height: int


class Sandbox:
    """A pool of decoding processes; `tile` may be called from many threads."""

    def __init__(
        self,
        decoders: int,
        timeout: float,
        memory: int,
        mode: Mode = "natural",
        max_pixels: int = 50_000_000,
        side: int = 448,
    ) -> None:
        raise NotImplementedError

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> Tiled:
        """Decode and cut `image`. Raises `UndecodableImage`."""
        raise NotImplementedError

    def close(self) -> None:
        """End the processes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
