"""Pictures, good and bad, made here so that the tree carries none."""

import struct
import zlib
from typing import Any

from PIL import Image

from tests.encoded import encoded


def picture(kind: str = "JPEG", size: tuple[int, int] = (640, 480), mode: str = "RGB", **options: Any) -> bytes:
    """Return a picture of one colour as a file of `kind`."""
    return encoded(Image.new(mode, size, 0), kind, **options)


def turned(kind: str, orientation: int, size: tuple[int, int] = (640, 480)) -> bytes:
    """Return a picture whose EXIF says how to turn it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture(kind, size, exif=exif)


def animated(kind: str, frames: int) -> bytes:
    """Return an animation of tiny frames, all of them different."""
    images = [Image.new("RGB", (4, 4), (n * 37 % 256, n * 91 % 256, 0)) for n in range(frames)]
    return encoded(images[0], kind, save_all=True, append_images=images[1:])


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG file of just these chunks."""
    parts = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    """Return an IHDR chunk."""
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def bomb(side: int = 10_000) -> bytes:
    """Return a PNG of `side` x `side` one-bit pixels in some kilobytes."""
    row = b"\0" * (side // 8 + 1)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(header(side, side, depth=1, colour=0), (b"IDAT", data), (b"IEND", b""))


def gif(frames: int) -> bytes:
    """Return a GIF of `frames` frames of one pixel, without Pillow, which merges equal ones."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6) + frame * frames + b"\x3b"


def tiff_ring() -> bytes:
    """Return a TIFF whose directories follow one another in a circle."""
    entries = b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 4), (257, 4), (262, 1), (273, 8), (279, 16))
    )
    directory = struct.pack("<H", 5) + entries + struct.pack("<I", 8)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(16)
