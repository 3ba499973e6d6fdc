"""How an image is to be turned: read in one place, so that the size in a job's record is that of the tiled image."""

from PIL import Image

from shared.images import ImageMode

_ORIENTATION = 0x0112
#: EXIF orientation → how to turn the stored image (EXIF 3.0, 4.6.5.1.6).
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = range(5, 9)


def upright_size(image: Image.Image, mode: ImageMode) -> tuple[int, int]:
    """Return width and height of an opened image as it will be tiled."""
    width, height = image.size
    return (height, width) if mode == "natural" and _orientation(image) in _SIDEWAYS else (width, height)


def upright(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """Return `pixels` turned as the metadata of `image`, which they were made from, says."""
    transpose = _TRANSPOSES.get(_orientation(image))
    return pixels if transpose is None else pixels.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    """1 to 8, by EXIF, else by XMP; 1 where there is none. Pillow turns TIFF by itself when it loads it."""
    if image.format == "TIFF":
        return 1
    try:
        # The base class's: PNG's own would decode the image to find an EXIF block behind its pixels.
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block tells no orientation; the image may be intact
        return 1
