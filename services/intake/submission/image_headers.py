"""Format and size of an image, from its header alone: nothing is decoded, and an unknown format is not even opened.

Pillow reads the header under its own plugin for the type found, in the way that the worker's decoder will.
"""

from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from services.intake.submission.unknown_format import NO_KNOWN_TYPE, describe
from shared.errors import ImageTooManyPixels, UndecodableImage, UnsupportedImageType
from shared.images import SNIFF_BYTES, ImageLimits, accepted_formats, accepted_names, sniff
from shared.imaging.fault import fault
from shared.imaging.opening import open_image
from shared.imaging.orientation import upright_size

_HEIF = ("image/heic", "image/heif")
_MIN_BYTES = 12  # below this no format can be recognised


@dataclass(frozen=True)
class ImageInfo:
    """An image as the model will get it: turned where EXIF says so and the mode applies it."""

    media_type: str
    width: int
    height: int


def inspect(file: BinaryIO, size: int, limits: ImageLimits, image: int) -> ImageInfo:
    """Return format and size of image number `image` of its job. Raises the `RequestError` that names it."""
    file.seek(0)
    start = file.read(SNIFF_BYTES)
    media_type = sniff(start)
    if media_type not in accepted_formats():
        raise _unknown(start, media_type, size, image)
    opened = _open(file, media_type, limits, image)
    _check_size(*opened.size, limits, image)
    return ImageInfo(media_type, *upright_size(opened, limits.mode))


def _unknown(start: bytes, media_type: str | None, size: int, image: int) -> UndecodableImage | UnsupportedImageType:
    if size == 0:
        return UndecodableImage(f"image {image} is empty", image=image)
    found = describe(start)
    if size < _MIN_BYTES and found == NO_KNOWN_TYPE:
        return UndecodableImage(f"image {image} has {size} bytes, too few for any image", image=image)
    if media_type in _HEIF:
        found = "HEIC (this service takes it with the extra `heif`)"
    detail = f"image {image} is, by its content, {found}; send {accepted_names()}"
    return UnsupportedImageType(detail, image=image)


def _open(file: BinaryIO, media_type: str, limits: ImageLimits, image: int) -> Image.Image:
    try:
        return open_image(file, media_type, header_only=True)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooManyPixels(f"image {image} has more than {limits.max_pixels} pixels", image=image) from error
    except Exception as error:  # Pillow's readers raise eight kinds; whichever it is, this image can't be read
        reason = "its header can't be read" if "cannot identify" in str(error) else fault(error)
        detail = f"image {image} is not a readable {accepted_formats()[media_type]}: {reason}"
        raise UndecodableImage(detail, image=image) from error


def _check_size(width: int, height: int, limits: ImageLimits, image: int) -> None:
    if width < 1 or height < 1:
        raise UndecodableImage(f"image {image} is {width}x{height} pixels by its header", image=image)
    if width * height > limits.max_pixels or max(width, height) > limits.max_side:
        most = f"at most {limits.max_pixels} pixels and {limits.max_side} on a side are allowed"
        raise ImageTooManyPixels(f"image {image} is {width}x{height} pixels; {most}", image=image)
