"""Opens image files with Pillow as viewers do: broken metadata refuses none, and only the first frame counts."""

import io
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any, BinaryIO

from PIL import AvifImagePlugin, Image

from shared.images import ImageLimits, accepted_formats
from shared.imaging.bmp import read_bmp
from shared.imaging.container import Container
from shared.imaging.jpeg import read_jpeg
from shared.imaging.png import read_png
from shared.imaging.tiff import read_tiff
from shared.imaging.webp import read_webp

_READERS: dict[str, Callable[[BinaryIO, bool], Container]] = {
    "image/jpeg": read_jpeg,
    "image/png": read_png,
    "image/webp": read_webp,
    "image/tiff": read_tiff,
    "image/bmp": read_bmp,
}
#: Compressions of TIFF that not every build of libtiff knows.
_OPTIONAL_CODECS = ("webp", "zstd", "lzma")
_WITHOUT_TILES = ("WEBP", "HEIF")  # their plugins load pixels in their own way


def configure_pillow(limits: ImageLimits) -> None:
    """Set Pillow's process-wide limits, one thread for each decoder, and its reader of HEIC where it is installed."""
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    if find_spec("pillow_heif"):
        import pillow_heif  # noqa: PLC0415 - an optional extra

        pillow_heif.options.DECODE_THREADS = 1
        pillow_heif.register_heif_opener(thumbnails=False)


def open_image(file: BinaryIO, media_type: str, *, header_only: bool = False) -> Image.Image:
    """Open an image of the type that `shared.images.sniff` found. Raises what Pillow raises, and
    `ValueError` if the header says that the pixels can't be decoded.

    `info` then has `exif`, `xmp` and `icc_profile` where the file has them and they can be read. With `header_only`
    the pixels can't be loaded.
    """
    reader = _READERS.get(media_type, _as_it_is)
    container = reader(file, header_only)
    container.file.seek(0)
    opened = Image.open(container.file, formats=(accepted_formats()[media_type],))
    _check_pixels(opened)
    if (metadata := container.metadata) is not None:
        info: dict[Any, Any] = opened.info
        for name, value in (("exif", metadata.exif), ("xmp", metadata.xmp), ("icc_profile", metadata.icc)):
            info.pop(name, None)
            if value is not None:
                info[name] = value
    return opened


def _check_pixels(opened: Image.Image) -> None:
    """Raise `ValueError` if the header says that the pixels can't be decoded."""
    if not getattr(opened, "tile", None) and opened.format not in _WITHOUT_TILES:
        raise ValueError("it holds no pixels")
    compression = opened.info.get("compression")
    if opened.format == "TIFF" and compression in _OPTIONAL_CODECS and not _has_codec(compression):
        raise ValueError(f"its compression {compression} is not supported")


@cache
def _has_codec(compression: str) -> bool:
    """Whether the libtiff of this installation knows a compression; only trying tells."""
    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), "TIFF", compression=compression)
    except (OSError, ValueError, RuntimeError):
        return False
    return True


def _as_it_is(file: BinaryIO, header_only: bool) -> Container:
    del header_only
    return Container(file, None)
