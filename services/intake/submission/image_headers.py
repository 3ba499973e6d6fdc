"""Format and size of an image, from its header alone: nothing is decoded, and an unknown format is not even opened.

Pillow reads the header under its own plugin for the type found; frames are counted by a walk of bounded length.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from shared.errors import ImageTooManyPixels, UndecodableImage, UnsupportedImageType
from shared.images import ACCEPTED, PILLOW_FORMATS, SNIFF_BYTES, ImageLimits, sniff

_OTHERS = (
    (b"%PDF", "a PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "a Photoshop file"),
    (b"\0\0\1\0", "an icon"),
    (b"SIMPLE  =", "FITS"),
    (b"<", "HTML or SVG"),
)
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_MIN_BYTES = 12  # below this no format can be told
_MAX_STEPS = 1_000_000  # of a walk through frames; later ones are not counted, since the first is the one used
_SIDEWAYS = range(5, 9)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageInfo:
    """An image as the model will get it: turned where EXIF says so and the mode applies it."""

    media_type: str
    width: int
    height: int


def configure_pillow(limits: ImageLimits) -> None:
    """Set Pillow's process-wide guard, which WebP's reader asks before it makes room for a canvas."""
    Image.MAX_IMAGE_PIXELS = limits.max_pixels


def inspect(file: BinaryIO, size: int, limits: ImageLimits, image: int) -> ImageInfo:
    """Return format and size of image number `image` of its job. Raises the `RequestError` that names it."""
    file.seek(0)
    start = file.read(SNIFF_BYTES)
    kind = sniff(start)
    if kind is None:
        raise _unknown(start, size, image)
    opened = _open(file, kind, limits, image)
    width, height = opened.size
    _check_size(width, height, limits, image)
    frames = _frames(file, kind, opened, limits.max_frames)
    if frames > limits.max_frames:
        detail = f"image {image} has more than {limits.max_frames} frames; send the frame to look at as an image"
        raise ImageTooManyPixels(detail, image=image)
    if limits.mode == "natural" and kind != "image/tiff" and _orientation(opened) in _SIDEWAYS:
        width, height = height, width  # Pillow turns TIFF by itself, in either mode
    return ImageInfo(kind, width, height)


def _unknown(start: bytes, size: int, image: int) -> UndecodableImage | UnsupportedImageType:
    if size == 0:
        return UndecodableImage(f"image {image} is empty", image=image)
    if size < _MIN_BYTES:
        return UndecodableImage(f"image {image} has {size} bytes, too few for any image", image=image)
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = next((name for magic, name in _OTHERS if text[:16].lower().startswith(magic.lower())), "of no known type")
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF:
        found = "HEIC/HEIF"
    detail = f"image {image} is {found} by its content; send {ACCEPTED}"
    return UnsupportedImageType(detail, image=image)


def _open(file: BinaryIO, kind: str, limits: ImageLimits, image: int) -> Image.Image:
    plugin = PILLOW_FORMATS[kind]
    try:
        file.seek(0)
        return Image.open(file, formats=(plugin,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooManyPixels(f"image {image} has more than {limits.max_pixels} pixels", image=image) from error
    except Exception as error:  # Pillow's readers raise eight kinds; whichever it is, this image can't be read
        told = "its header can't be read" if "cannot identify" in str(error) else f"{error}"[:200]
        raise UndecodableImage(f"image {image} is not a readable {plugin}: {told}", image=image) from error


def _check_size(width: int, height: int, limits: ImageLimits, image: int) -> None:
    if width < 1 or height < 1:
        raise UndecodableImage(f"image {image} is {width}x{height} pixels by its header", image=image)
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        most = f"at most {limits.max_pixels} pixels and {limits.max_side} on a side are allowed"
        raise ImageTooManyPixels(f"image {image} is {width}x{height} pixels; {most}", image=image)


def _orientation(opened: Image.Image) -> int:
    try:
        # The base class's: PNG's own would decode the image to find an EXIF block behind its pixels.
        return int(Image.Image.getexif(opened).get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing of how to turn the picture, which may be intact
        return 1


def _frames(file: BinaryIO, kind: str, opened: Image.Image, most: int) -> int:
    """Count frames, `most` + 1 at the most."""
    if kind == "image/gif":
        return _gif_frames(file, most)
    if kind == "image/tiff":
        return _tiff_frames(file, most)
    if kind == "image/jpeg":
        return 1  # further images of an MPO are skipped
    return int(getattr(opened, "n_frames", 1))


def _gif_frames(file: BinaryIO, most: int) -> int:
    file.seek(0)
    data = file.read()
    place = 13 + _colours(data[10]) if len(data) > 10 else len(data)
    frames = steps = 0
    while place < len(data) and frames <= most and steps < _MAX_STEPS:
        block = data[place]
        if block == 0x2C and place + 9 < len(data):
            frames += 1
            place += 11 + _colours(data[place + 9])
        elif block == 0x21:
            place += 2
        else:
            break
        while place < len(data) and data[place] and steps < _MAX_STEPS:
            place += 1 + data[place]
            steps += 1
        place += 1
        steps += 1
    return frames


def _colours(flags: int) -> int:
    """Bytes of a colour table."""
    return 3 << (flags % 8 + 1) if flags & 0x80 else 0


def _tiff_frames(file: BinaryIO, most: int) -> int:
    file.seek(0)
    start = file.read(16)
    order = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    count, entry, offset = ("Q", 20, "Q") if big else ("H", 12, "I")
    frames, seen = 0, set()
    (place,) = struct.unpack_from(order + offset, start, 8 if big else 4)
    while place and place not in seen and frames <= most:
        seen.add(place)
        frames += 1
        file.seek(min(place, 1 << 62))
        head = file.read(struct.calcsize(count))
        if len(head) < struct.calcsize(count):
            break
        file.seek(min(entry * struct.unpack(order + count, head)[0], 1 << 62), 1)
        following = file.read(struct.calcsize(offset))
        if len(following) < struct.calcsize(offset):
            break
        (place,) = struct.unpack(order + offset, following)
    return frames
