"""Image files made byte by byte: what Pillow would not write, and every part in a place of the test's choosing."""

import struct
import zlib
from collections.abc import Sequence

from PIL import Image

from tests.encoded import encoded

Chunk = tuple[bytes, bytes]


def png_chunk(name: bytes, data: bytes, flip_checksum: int = 0) -> bytes:
    """A chunk of PNG, its checksum wrong by `flip_checksum`."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ flip_checksum)


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and whole bytes of each chunk."""
    found, place = [], 8
    while place < len(data):
        (length,) = struct.unpack_from(">I", data, place)
        found.append((data[place + 4 : place + 8], data[place : place + 12 + length]))
        place += 12 + length
    return found


def png_with(image: Image.Image, chunk: bytes, before: bytes = b"IDAT") -> bytes:
    """A PNG of `image` with `chunk`, whole bytes, before the first chunk named `before`."""
    parts = [data for _, data in png_chunks(encoded(image))]
    names = [name for name, _ in png_chunks(encoded(image))]
    parts.insert(names.index(before), chunk)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def jpeg_with(image: Image.Image, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG of `image` with segments, marker and content, behind its first two bytes."""
    data = encoded(image, "JPEG", quality=95)
    made = b"".join(bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:2] + made + data[2:]


def jpeg_of_many_scans(image: Image.Image, scans: int) -> bytes:
    """A progressive JPEG of `image` whose last scan comes `scans` times more: a few bytes each, and much work."""
    data = encoded(image, "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:-2] + data[start:-2] * scans + data[-2:]


def webp_with(image: Image.Image, *chunks: Chunk, flags: int = 0, size_error: int = 0) -> bytes:
    """An extended WebP of `image` with further chunks, its size wrong by `size_error`."""
    pixels = encoded(image, "WEBP", lossless=True)[12:]
    canvas = b"".join((side - 1).to_bytes(3, "little") for side in image.size)
    extended = b"VP8X" + struct.pack("<I", 10) + bytes([flags, 0, 0, 0]) + canvas
    more = b"".join(name + struct.pack("<I", len(data)) + data + bytes(len(data) & 1) for name, data in chunks)
    body = b"WEBP" + extended + pixels + more
    return b"RIFF" + struct.pack("<I", len(body) + size_error) + body


def tiff_with(image: Image.Image, *entries: tuple[int, int, int, bytes]) -> bytes:
    """A TIFF of `image` whose directory has further entries: tag, type, count and four bytes."""
    data = encoded(image, "TIFF")
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    old = [data[place + 2 + 12 * n : place + 14 + 12 * n] for n in range(count)]
    new = {entry[:2]: entry for entry in [*old, *(struct.pack("<HHI4s", *entry) for entry in entries)]}
    ordered = sorted(new.values(), key=lambda entry: struct.unpack_from("<H", entry))
    directory = struct.pack("<H", len(ordered)) + b"".join(ordered) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


def bmp32(pixels: Sequence[tuple[int, int, int, int]], header_bytes: int, masks: Sequence[int]) -> bytes:
    """A 32-bit BMP of one row, BITFIELDS: pixels as blue, green, red, alpha; masks of red, green, blue, alpha."""
    info = struct.pack("<IiiHHIIiiII", header_bytes, len(pixels), 1, 1, 32, 3, 4 * len(pixels), 0, 0, 0, 0)
    fields = b"".join(struct.pack("<I", mask) for mask in masks)
    info += fields if header_bytes > 40 else b""
    info = info.ljust(header_bytes, b"\0") + (fields[:12] if header_bytes == 40 else b"")
    body = b"".join(bytes(pixel) for pixel in pixels)
    return b"BM" + struct.pack("<IHHI", 14 + len(info) + len(body), 0, 0, 14 + len(info)) + info + body


def tiff16(samples: Sequence[Sequence[int]], order: str, alpha: bool = False) -> bytes:
    """A TIFF of one row of colours of 16 bits, red, green, blue and perhaps alpha, in byte order `<` or `>`."""
    bands = 4 if alpha else 3
    body = b"".join(struct.pack(f"{order}{bands}H", *pixel) for pixel in samples)
    entries = [
        (256, 4, 1, len(samples)),
        (257, 4, 1, 1),
        (258, 3, bands, 8 + len(body)),
        (259, 4, 1, 1),
        (262, 4, 1, 2),
    ]
    entries += [(273, 4, 1, 8), (277, 4, 1, bands), (278, 4, 1, 1), (279, 4, 1, len(body))]
    entries += [(338, 4, 1, 2)] if alpha else []
    bits = struct.pack(f"{order}4H", 16, 16, 16, 16)
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(struct.pack(f"{order}HHII", *one) for one in entries)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8 + len(body) + len(bits)) + body + bits + directory + bytes(4)


#: Colours of the primaries in the profile connection space (XYZ under D50): red, green, blue.
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))


def rgb_profile(primaries: Sequence[Sequence[float]]) -> bytes:
    """A profile of these primaries with the tone curve of sRGB."""
    curve = (
        b"para"
        + bytes(4)
        + struct.pack(">HH", 3, 0)
        + b"".join(map(_fixed, (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)))
    )
    colours = {name: _xyz(xyz) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)}
    return _profile(b"mntr", b"RGB ", b"XYZ ", colours | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def grey_profile(gamma: float) -> bytes:
    """A profile of grey images with this tone curve."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": b"para" + bytes(4) + struct.pack(">HH", 0, 0) + _fixed(gamma)})


def cmyk_profile(inks: Sequence[tuple[int, int, int]]) -> bytes:
    """A profile whose 16 corners, cyan slowest and black fastest, are these colours in Lab of 8 bits."""
    identity = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + b"".join(_fixed(float(n in (0, 4, 8))) for n in range(9))
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table + identity * 4 + bytes(sum(inks, ())) + identity * 3})


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = tags | {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"cprt": b"text" + bytes(4) + b"test\0\0\0\0",
        b"wtpt": _xyz((0.9642, 1, 0.8249)),
    }
    place, directory, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        padded = data + bytes(-len(data) % 4)
        directory += struct.pack(">4sII", name, place + len(body), len(data))
        body += padded
    head = struct.pack(
        ">I4sI4s4s4s12s4s", place + len(body), b"lcms", 0x02400000, kind, space, connection, bytes(12), b"acsp"
    )
    head = (head.ljust(68, b"\0") + _fixed(0.9642) + _fixed(1) + _fixed(0.8249)).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + directory + body


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(map(_fixed, values))


def _fixed(value: float) -> bytes:
    """A number as s15Fixed16."""
    return struct.pack(">i", round(value * 65536))
