"""The pixels of every kind of file that decoders are known to show wrongly, one file each."""

import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.images import ImageLimits
from tests.encoded import encoded
from tests.image_files import jpeg_with, png_chunk, png_with, webp_with
from workers.vision.images.decode import decode

NATURAL = ImageLimits(max_pixels=50_000_000, max_side=32_768, max_missing_rows=0.1, mode="natural")
Colour = tuple[int, int, int]
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
SIDE = 16  #: of a square of one colour: whole blocks of a JPEG, chroma included


def four(*colours: Colour) -> Image.Image:
    """An image of 2x2 squares: top left, top right, bottom left, bottom right."""
    small = np.array(colours, np.uint8).reshape(2, 2, 3)
    return Image.fromarray(small.repeat(SIDE, 0).repeat(SIDE, 1))


def shown(data: bytes) -> list[Any]:
    """The colours in the middle of the four squares."""
    image = decode(data, NATURAL).image
    places = [SIDE // 2, SIDE + SIDE // 2]
    return [image.getpixel((x, y)) for y in places for x in places]


def assert_near(found: list[Any], *expected: Colour, within: int = 3) -> None:
    assert np.abs(np.array(found, int) - np.array(expected)).max() <= within, found


UPRIGHT = (RED, GREEN, BLUE, WHITE)
#: What a file with each orientation holds, so that it is shown upright (Exif 2.32, tag 274): the places of its squares.
STORED = {
    1: (0, 1, 2, 3),
    2: (1, 0, 3, 2),
    3: (3, 2, 1, 0),
    4: (2, 3, 0, 1),
    5: (0, 2, 1, 3),
    6: (1, 3, 0, 2),
    7: (3, 1, 2, 0),
    8: (2, 0, 3, 1),
}


def exif(orientation: int) -> bytes:
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)


TURNED: dict[str, Callable[[Image.Image, int], bytes]] = {
    "JPEG": lambda image, orientation: jpeg_with(image, (0xE1, b"Exif\0\0" + exif(orientation))),
    "PNG": lambda image, orientation: png_with(image, png_chunk(b"eXIf", exif(orientation))),
    "WEBP": lambda image, orientation: webp_with(image, (b"EXIF", exif(orientation)), flags=8),
}


@pytest.mark.parametrize("kind", TURNED)
@pytest.mark.parametrize("orientation", STORED)
def test_each_orientation_is_shown_upright(kind: str, orientation: int) -> None:
    stored = four(*(UPRIGHT[place] for place in STORED[orientation]))
    assert_near(shown(TURNED[kind](stored, orientation)), *UPRIGHT)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    assert_near(shown(TURNED["JPEG"](four(*UPRIGHT), orientation)), *UPRIGHT)


def test_a_jpeg_of_four_inks_is_shown_in_its_colours() -> None:
    """Adobe's writers, and Pillow, store inks inverted; the marker says so."""
    data = encoded(four(*UPRIGHT).convert("CMYK"), "JPEG", quality=95)
    assert b"Adobe" in data
    assert_near(shown(data), *UPRIGHT, within=6)


def test_a_jpeg_of_inks_stored_as_luma_and_chroma_is_shown_in_its_colours() -> None:
    """YCCK: the inks go through the transform of colours, and the marker's last byte is 2."""
    inks = np.asarray(four(*UPRIGHT).convert("CMYK"))
    colours = Image.fromarray(inks[..., :3].copy()).convert("YCbCr")  # of the inks as stored, inverted twice
    stored = Image.merge("CMYK", [*(band.point(lambda value: 255 - value) for band in colours.split()), _black(inks)])
    data = bytearray(encoded(stored, "JPEG", quality=95, subsampling=0))
    data[data.index(b"Adobe") + 11] = 2
    assert_near(shown(bytes(data)), *UPRIGHT, within=6)


def _black(inks: Any) -> Image.Image:
    return Image.fromarray(inks[..., 3].copy())


def test_a_progressive_jpeg_is_the_baseline_jpeg_pixel_by_pixel() -> None:
    noise = Image.effect_noise((160, 120), 80).convert("RGB")
    baseline, progressive = (
        encoded(noise, "JPEG", quality=90, progressive=progressive) for progressive in (False, True)
    )
    assert b"\xff\xc2" in progressive
    assert b"\xff\xc2" not in baseline
    assert decode(progressive, NATURAL).image.tobytes() == decode(baseline, NATURAL).image.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_16_bits_is_scaled(kind: str) -> None:
    grey = np.array([0, 0x4040, 0x8080, 0xFFFF], np.uint16).reshape(2, 2).repeat(SIDE, 0).repeat(SIDE, 1)
    assert shown(encoded(Image.fromarray(grey), kind)) == [(value,) * 3 for value in (0, 64, 128, 255)]


def test_colours_of_16_bits_are_scaled() -> None:
    rows = b"".join(b"\0" + struct.pack(">6H", 0xFFFF, 0, 0, 0x8080, 0x4040, 0) for _ in range(2))
    assert decoded_row(png(rows, 2, 2, depth=16, kind=2)) == [RED, (128, 64, 0)]


@pytest.mark.parametrize(
    ("depth", "packed", "expected"), [(1, 0b0100_0000, [0, 255]), (2, 0b0001_1011, [0, 85, 170, 255])]
)
def test_grey_of_few_bits_covers_the_whole_range(depth: int, packed: int, expected: list[int]) -> None:
    data = png(bytes([0, packed]), len(expected), 1, depth=depth, kind=0)
    assert decoded_row(data) == [(value,) * 3 for value in expected]


def test_one_bit_is_black_and_white_in_every_format() -> None:
    image = four(BLACK, WHITE, WHITE, BLACK).convert("1")
    for kind in ("PNG", "BMP", "GIF", "TIFF"):
        assert shown(encoded(image, kind)) == [BLACK, WHITE, WHITE, BLACK], kind


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_colour_of_a_palette_is_white(kind: str) -> None:
    image = four(*UPRIGHT[:3], BLACK).quantize(4)
    clear = image.getpixel((0, 0))  # the red one
    assert shown(encoded(image, kind, transparency=clear)) == [WHITE, GREEN, BLUE, BLACK]


def test_colours_of_a_palette_may_be_transparent_in_part() -> None:
    palette = png_chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255])) + png_chunk(b"tRNS", bytes([128, 255]))
    assert decoded_row(png(bytes([0, 0b0000_0001]), 2, 1, depth=4, kind=3, more=palette)) == [(255, 127, 127), BLUE]


def test_grey_with_alpha_lies_over_white() -> None:
    grey, alpha = (
        four(*((value,) * 3 for value in values)).convert("L") for values in ((0, 0, 128, 255), (255, 0, 128, 255))
    )
    image = Image.merge("LA", [grey, alpha])
    assert_near(shown(encoded(image)), BLACK, WHITE, (191,) * 3, WHITE, within=1)


def test_colours_hidden_under_full_transparency_are_not_shown() -> None:
    image = four(*UPRIGHT).convert("RGBA")
    image.putalpha(four(WHITE, BLACK, WHITE, BLACK).convert("L"))
    assert shown(encoded(image)) == [RED, WHITE, BLUE, WHITE]


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_is_shown_whatever_the_mode_of_the_next(kind: str) -> None:
    first, others = four(*UPRIGHT), [four(*UPRIGHT).convert("L").convert("RGBA"), Image.new("RGB", (2 * SIDE,) * 2)]
    assert_near(shown(encoded(first, kind, save_all=True, append_images=others, lossless=True)), *UPRIGHT, within=0)


def png(rows: bytes, width: int, height: int, *, depth: int, kind: int, more: bytes = b"") -> bytes:
    """A PNG of `rows`, each behind its filter byte 0, of `depth` bits and colour type `kind`, with chunks `more`."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + more + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def decoded_row(data: bytes) -> list[Any]:
    """The colours of the first row."""
    image = decode(data, NATURAL).image
    return [image.getpixel((x, 0)) for x in range(image.width)]
