"""What a container format holds: the part that pixels depend on, and metadata taken out of it.

Readers are stricter with metadata than viewers are: Pillow refuses an image for one bit of the checksum of its
physical size. Here metadata is taken out of the file before Pillow opens it, and dropped where it is broken.
"""

import io
from dataclasses import dataclass
from typing import BinaryIO

MAX_METADATA_BYTES = 16 << 20  #: of one block, unpacked; a larger one is dropped


@dataclass(frozen=True)
class Metadata:
    """What a file says about its pixels; None: nothing, or nothing that can be read."""

    exif: bytes | None = None  #: a TIFF structure, perhaps behind `Exif\\0\\0`
    xmp: bytes | None = None
    icc: bytes | None = None  #: a colour profile


@dataclass(frozen=True)
class Container:
    """A file for Pillow, and what was taken out of it."""

    file: BinaryIO
    metadata: Metadata | None  #: None: left to Pillow


def as_file(*parts: bytes | bytearray) -> BinaryIO:
    """Return the parts one after the other as a file."""
    return io.BytesIO(b"".join(parts))
