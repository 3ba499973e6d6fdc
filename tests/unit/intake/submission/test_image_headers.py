"""Headers of pictures, good and bad."""

import io
import struct
import zlib
from contextlib import suppress
from dataclasses import replace

import pytest
from PIL import Image

from services.intake.submission.image_headers import ImageInfo, inspect
from shared.errors import ImageTooManyPixels, RequestError, UndecodableImage, UnsupportedImageType
from shared.images import ImageLimits, sniff
from tests.unit.intake.image_files import animated, bomb, header, picture, png, tiff_ring, turned

LIMITS = ImageLimits(max_pixels=50_000_000, max_side=32_768, max_missing_rows=0.1, mode="natural")
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def seen(data: bytes, limits: ImageLimits = LIMITS) -> ImageInfo:
    return inspect(io.BytesIO(data), len(data), limits, 3)


def refused(data: bytes, kind: type[RequestError], limits: ImageLimits = LIMITS) -> RequestError:
    with pytest.raises(kind) as caught:
        seen(data, limits)
    assert caught.value.image == 3
    assert caught.value.detail.startswith("image 3 ")
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_on_the_list_is_known_by_its_content(kind: str) -> None:
    assert seen(picture(kind, (64, 48))) == ImageInfo(f"image/{kind.lower()}", 64, 48)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("1", "PNG"),
        ("L", "JPEG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("RGBA", "PNG"),
        ("I;16", "PNG"),
        ("CMYK", "JPEG"),
        ("F", "TIFF"),
        ("LAB", "TIFF"),
    ],
)
def test_every_mode_has_a_header(mode: str, kind: str) -> None:
    assert seen(picture(kind, (64, 48), mode)).width == 64


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_that_is_counted(kind: str, orientation: int) -> None:
    found = seen(turned(kind, orientation, (64, 48)))
    assert (found.width, found.height) == ((48, 64) if orientation >= 5 else (64, 48))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    assert seen(turned("JPEG", orientation, (64, 48))).width == 64


def test_the_card_does_not_look_at_exif() -> None:
    original = replace(LIMITS, mode="original")
    assert seen(turned("JPEG", 6, (64, 48)), original).width == 64


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, about just that
def test_a_broken_exif_block_turns_nothing() -> None:
    assert seen(picture("JPEG", (64, 48), exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(100))).width == 64


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP"]
)
def test_what_is_only_a_beginning_is_undecodable(data: bytes) -> None:
    refused(data, UndecodableImage)


OTHERS = {
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>',
    "XML": b'\xef\xbb\xbf<?xml version="1.0"?><svg/>',
    "PDF": b"%PDF-1.7\n1 0 obj",
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0",
    "PSD": b"8BPS\0\1" + bytes(20),
    "FITS": b"SIMPLE  =                    T",
    "ICO": b"\0\0\1\0\1\0" + bytes(20),
    "MP4": b"\0\0\0\x18ftypisom\0\0\0\0isomiso2",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20),
    "WAV": b"RIFF\0\0\0\0WAVEfmt ",
    "ZIP": b"PK\3\4" + bytes(30),
    "HTML": b"<!doctype html><script>",
    "text": b"this is no picture",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_what_is_not_on_the_list_is_not_even_opened(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    refused(data, UnsupportedImageType)


def test_heic_is_refused_with_the_extra_that_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.images.find_spec", lambda _: None)
    error = refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), UnsupportedImageType)
    assert "HEIC (this service takes it with the extra `heif`)" in error.detail


def test_a_bomb_is_refused_by_its_header() -> None:
    data = bomb()
    assert len(data) < 20_000
    assert "50000000 pixels" in refused(data, ImageTooManyPixels).detail


@pytest.mark.parametrize(
    "size", [(1 << 31, 1 << 31), (0xFFFFFFFF, 1), (65_535, 1), (1, 65_535), (40_000, 2), (20_000, 20_000)]
)
def test_too_many_pixels_or_too_long_a_side(size: tuple[int, int]) -> None:
    with pytest.raises((ImageTooManyPixels, UndecodableImage)):
        seen(png(header(*size), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")))


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_no_pixels_at_all(size: tuple[int, int]) -> None:
    refused(png(header(*size), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")), UndecodableImage)


def test_a_huge_canvas_is_refused_before_room_is_made_for_it() -> None:
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16_382).to_bytes(3, "little") * 2
    refused(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body + bytes(30), ImageTooManyPixels)


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_a_bomb_in_a_chunk_is_dropped(name: bytes) -> None:
    packed = zlib.compress(bytes(200 << 20), 9)
    data = png(header(8, 8), (name, b"a\0\0" + packed), (b"IDAT", zlib.compress(bytes(72))), (b"IEND", b""))
    assert seen(data).width == 8


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_a_thousand_and_one_frames_are_one_image(kind: str) -> None:
    assert seen(animated(kind, 1_001)).width == 4


def test_a_ring_of_directories_ends() -> None:
    assert seen(tiff_ring()).width == 4


def test_of_a_stereo_picture_the_first_is_meant() -> None:
    buffer = io.BytesIO()
    left, right = Image.new("RGB", (64, 48)), Image.new("RGB", (64, 48), "red")
    left.save(buffer, "MPO", save_all=True, append_images=[right])
    assert seen(buffer.getvalue()) == ImageInfo("image/jpeg", 64, 48)


def test_a_picture_with_a_web_page_behind_it_is_a_picture() -> None:
    assert seen(picture("JPEG", (64, 48)) + b"<html><script>alert(1)</script>").media_type == "image/jpeg"


@pytest.mark.parametrize("kind", KINDS)
def test_no_prefix_and_no_flipped_byte_is_more_than_a_refusal(kind: str) -> None:
    data = picture(kind, (64, 48))
    for cut in range(0, min(len(data), 400), 3):
        for broken in (data[:cut], data[:cut] + bytes([data[cut] ^ 0xFF]) + data[cut + 1 :]):
            with suppress(UndecodableImage, UnsupportedImageType, ImageTooManyPixels):
                seen(broken)


def test_types_are_told_by_the_first_bytes_alone() -> None:
    assert sniff(b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf") == "image/avif"
    assert sniff(b"BM") == "image/bmp"
    assert sniff(b"") is None
