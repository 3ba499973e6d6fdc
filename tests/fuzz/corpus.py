"""Small whole image files of every accepted format, in the variants whose decoders differ."""

import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from PIL import Image, ImageCms

from shared.images import accepted_formats
from tests.encoded import encoded
from tests.image_files import bmp32, jpeg_with, png_chunk, png_with, tiff16, webp_with

WIDTH, HEIGHT = 61, 43  # odd, so that blocks and bit rows are not full
EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"

Make = Callable[[], bytes]


def corpus() -> dict[str, bytes]:
    """The files by name; the name begins with the format."""
    made = {name: make() for name, make in _variants()}
    missing = {name.lower() for name in accepted_formats().values()} - {name.split()[0] for name in made}
    if missing:
        raise AssertionError(f"no file of {sorted(missing)} to mutate")
    return made


def _variants() -> Iterator[tuple[str, Make]]:
    colour = _drawn()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "jpeg baseline", partial(encoded, colour, "JPEG", quality=90)
    yield "jpeg progressive", partial(encoded, colour, "JPEG", progressive=True)
    yield "jpeg cmyk", partial(encoded, colour.convert("CMYK"), "JPEG")
    yield "jpeg grey", partial(encoded, colour.convert("L"), "JPEG")
    yield "jpeg restart markers", partial(encoded, colour, "JPEG", restart_marker_blocks=2)
    yield "jpeg turned", partial(jpeg_with, colour, (0xE1, EXIF))
    yield "jpeg profile", partial(encoded, colour, "JPEG", icc_profile=profile)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield f"png {mode}", partial(encoded, _as_mode(colour, mode))
    yield "png palette transparent", partial(encoded, colour.quantize(16), transparency=3)
    yield "png profile", partial(encoded, colour, icc_profile=profile)
    yield "png exif", partial(png_with, colour, png_chunk(b"eXIf", EXIF[6:]))
    yield "png animated", partial(encoded, colour, save_all=True, append_images=[colour.rotate(90)])
    for name, options in (("lossy", {"quality": 60}), ("lossless", {"lossless": True})):
        yield f"webp {name}", partial(encoded, _as_mode(colour, "RGBA"), "WEBP", **options)
    yield "webp extended", partial(webp_with, colour, (b"EXIF", EXIF), flags=8)
    yield "webp animated", partial(encoded, colour, "WEBP", save_all=True, append_images=[colour.rotate(90)])
    yield "gif", partial(encoded, colour, "GIF")
    yield "gif animated", partial(encoded, colour, "GIF", save_all=True, append_images=[colour.rotate(90)])
    for mode in ("1", "L", "P", "RGB"):
        yield f"bmp {mode}", partial(encoded, _as_mode(colour, mode), "BMP")
    yield "bmp masks", partial(bmp32, [(1, 2, 3, 255)] * 9, 124, (0xFF0000, 0xFF00, 0xFF, 0xFF000000))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        source = _as_mode(colour, "1" if compression == "group4" else "RGB")
        yield f"tiff {compression}", partial(encoded, source, "TIFF", compression=compression)
    for mode in ("CMYK", "LAB", "F", "I;16", "I", "P"):
        yield f"tiff {mode}", partial(encoded, _as_mode(colour, mode), "TIFF")
    yield "tiff 16 bits", partial(tiff16, [(65535, 257, 0)] * 7, ">")
    yield "tiff big", partial(encoded, colour, "TIFF", big_tiff=True)
    yield "avif", partial(encoded, colour, "AVIF", quality=50, speed=9)
    yield "avif alpha", partial(encoded, _as_mode(colour, "RGBA"), "AVIF", quality=50, speed=9)
    if "HEIF" in accepted_formats().values():
        yield "heif", partial(_heif, colour)


def _drawn() -> Image.Image:
    """Noise over a gradient: enough detail that every part of a coder is used."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    smooth = np.stack([4 * columns, 5 * rows, 2 * (rows + columns)], axis=-1)
    noise = np.random.default_rng(0).integers(0, 60, (HEIGHT, WIDTH, 3))
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def _as_mode(colour: Image.Image, mode: str) -> Image.Image:
    if mode in ("LA", "RGBA"):
        converted = colour.convert(mode)
        converted.putalpha(colour.convert("L"))
        return converted
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        return ImageCms.profileToProfile(colour, ImageCms.createProfile("sRGB"), lab, outputMode="LAB") or colour
    if mode == "I;16":
        return Image.fromarray(np.asarray(colour.convert("L"), np.uint16) * 257)
    return colour.convert(mode)


def _heif(colour: Image.Image) -> bytes:
    written = io.BytesIO()
    colour.save(written, "HEIF", quality=50)
    return written.getvalue()
