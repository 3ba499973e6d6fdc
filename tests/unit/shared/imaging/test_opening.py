"""Broken metadata refuses no image, and intact metadata is found wherever a file may have it."""

import io
import struct
import zlib
from contextlib import suppress
from typing import Any

import pytest
from PIL import AvifImagePlugin, Image, ImageCms

from shared.images import ImageLimits, ImageMode, sniff
from shared.imaging.opening import configure_pillow, open_image
from shared.imaging.orientation import upright, upright_size
from tests.encoded import encoded
from tests.image_files import jpeg_with, png_chunk, png_with, tiff_with, webp_with

RED = (200, 60, 30)
IMAGE = Image.new("RGB", (40, 20), RED)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def opened(data: bytes, *, header_only: bool = False) -> Image.Image:
    media_type = sniff(data[:64])
    assert media_type
    return open_image(io.BytesIO(data), media_type, header_only=header_only)


def pixels(data: bytes) -> Any:
    """The first pixel; the header alone is read too, as intake does."""
    assert opened(data, header_only=True).size == opened(data).size
    return opened(data).convert("RGB").getpixel((0, 0))


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


PNG_DAMAGE = {
    f"{name.decode()} {kind}": chunk
    for name, body in {
        b"pHYs": struct.pack(">IIB", 1, 1, 0),
        b"gAMA": struct.pack(">I", 45455),
        b"tEXt": b"a\0b",
        b"zTXt": b"a\0\0" + zlib.compress(b"b"),
        b"iTXt": b"a\0\0\0\0\0b",
        b"iCCP": b"a\0\0" + zlib.compress(PROFILE),
        b"eXIf": exif(1)[6:],
        b"tIME": bytes(7),
        b"tRNS": bytes(6),
        b"sBIT": b"\x08\x08\x08",
        b"bKGD": bytes(6),
        b"cHRM": bytes(32),
        b"acTL": struct.pack(">II", 3, 0),
        b"fcTL": bytes(26),
        b"abCd": b"?",
    }.items()
    for kind, chunk in {
        "intact": png_chunk(name, body),
        "checksum": png_chunk(name, body, flip_checksum=1),
        "empty": png_chunk(name, b""),
        "short": png_chunk(name, body[:-1]),
        "long": png_chunk(name, body + bytes(70_000)),
        "unpacks to 12 MB": png_chunk(name, b"a\0\0" + zlib.compress(bytes(12 << 20))),
        "unknown method": png_chunk(name, b"a\0\7" + body[3:]),
    }.items()
}


@pytest.mark.parametrize("place", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("chunk", PNG_DAMAGE.values(), ids=PNG_DAMAGE)
def test_an_ancillary_chunk_refuses_no_png(chunk: bytes, place: bytes) -> None:
    assert pixels(png_with(IMAGE, chunk, place)) == RED


@pytest.mark.parametrize("length", [1 << 20, (1 << 32) - 1])
def test_a_chunk_that_leads_out_of_the_file_refuses_no_png(length: int) -> None:
    assert pixels(png_with(IMAGE, struct.pack(">I", length) + b"tEXtabc")) == RED


@pytest.mark.parametrize("body", [bytes(9), bytes(10), bytes(900)])
def test_a_palette_that_only_suggests_colours_refuses_no_png(body: bytes) -> None:
    broken = png_chunk(b"PLTE", body)[:-4] + b"?!?!"
    assert pixels(png_with(IMAGE, broken)) == RED


def test_chunks_between_pixels_and_a_missing_end_refuse_no_png() -> None:
    noise = Image.effect_noise((300, 300), 80)
    whole = encoded(noise)
    assert whole.count(b"IDAT") > 1
    second = whole.rindex(b"IDAT") - 4
    data = whole[:second] + png_chunk(b"tEXt", b"a\0b") + whole[second:]
    for cut in (len(data), len(data) - 12, len(data) - 5):
        assert opened(data[:cut]).tobytes() == noise.tobytes()


JPEG_DAMAGE = {
    "JFIF of one byte": (0xE0, b"J"),
    "JFIF cut": (0xE0, b"JFIF\0\1"),
    "EXIF of nothing": (0xE1, b"Exif\0\0"),
    "EXIF of noise": (0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(100)),
    "XMP of noise": (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe"),
    "profile of one of two parts": (0xE2, b"ICC_PROFILE\0\1\2abc"),
    "profile without number": (0xE2, b"ICC_PROFILE\0"),
    "MPF of noise": (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff"),
    "MPF offset past the end": (
        0xE2,
        b"MPF\0" + struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, 45057, 4, 1, b"\xff" * 4, 0),
    ),
    "Photoshop cut": (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
    "Adobe cut": (0xEE, b"Adobe\0"),
    "comment": (0xFE, b"\xff\xfe"),
    "private": (0xEB, bytes(60_000)),
}


@pytest.mark.parametrize("segment", JPEG_DAMAGE.values(), ids=JPEG_DAMAGE)
def test_metadata_refuses_no_jpeg(segment: tuple[int, bytes]) -> None:
    assert pixels(jpeg_with(IMAGE, segment)) == pixels(jpeg_with(IMAGE))


@pytest.mark.parametrize("name", [b"ICCP", b"EXIF", b"XMP ", b"????"])
@pytest.mark.parametrize("size_error", [-1, 0, 1, 1000])
def test_metadata_and_a_wrong_size_refuse_no_webp(name: bytes, size_error: int) -> None:
    assert pixels(webp_with(IMAGE, (name, b"noise"), flags=0x2C, size_error=size_error)) == RED


@pytest.mark.parametrize("tag", [270, 271, 282, 283, 296, 305, 306, 315, 700, 33723, 34377, 34665, 34675, 34853, 42016])
@pytest.mark.parametrize("kind", [2, 5, 7, 99])
@pytest.mark.parametrize("count", [0, 1, (1 << 32) - 1])
def test_metadata_refuses_no_tiff(tag: int, kind: int, count: int) -> None:
    assert pixels(tiff_with(IMAGE, (tag, kind, count, b"\xff\xff\xff\x7f"))) == RED


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_no_tiff(value: int) -> None:
    assert opened(tiff_with(IMAGE, (274, 3, 1, struct.pack("<HH", value, 0)))).size == (40, 20)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="%d"/></x:xmpmeta>'
TURNED = {
    "JPEG": lambda n: encoded(IMAGE, "JPEG", exif=exif(n)),
    "PNG": lambda n: encoded(IMAGE, exif=exif(n)),
    "PNG, behind the pixels": lambda n: png_with(IMAGE, png_chunk(b"eXIf", exif(n)[6:]), b"IEND"),
    "PNG, in XMP": lambda n: png_with(IMAGE, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP % n)),
    "JPEG, in XMP": lambda n: jpeg_with(IMAGE, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP % n)),
    "WebP": lambda n: encoded(IMAGE, "WEBP", exif=exif(n)),
    "AVIF": lambda n: encoded(IMAGE, "AVIF", exif=exif(n)),
    "TIFF": lambda n: tiff_with(IMAGE, (274, 3, 1, struct.pack("<HH", n, 0))),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("make", TURNED.values(), ids=TURNED)
def test_the_size_in_the_record_is_that_of_the_turned_image(make: Any, orientation: int) -> None:
    data = make(orientation)
    image = opened(data)
    image.load()
    expected = (20, 40) if orientation >= 5 else (40, 20)
    assert upright_size(opened(data, header_only=True), "natural") == expected
    assert upright(image, image).size == expected


@pytest.mark.parametrize("mode", ["natural", "original"])
def test_only_the_natural_mode_turns(mode: ImageMode) -> None:
    expected = (20, 40) if mode == "natural" else (40, 20)
    assert upright_size(opened(TURNED["JPEG"](6), header_only=True), mode) == expected


@pytest.mark.parametrize("orientation", range(2, 9))
def test_images_are_turned_as_exif_defines(orientation: int) -> None:
    """`PIL.ImageOps.exif_transpose` is a second implementation."""
    from PIL import ImageOps

    image = Image.effect_noise((40, 20), 80)
    data = encoded(image, exif=exif(orientation))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert upright(opened(data), image).tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_profile_is_found(kind: str) -> None:
    assert opened(encoded(IMAGE, kind, icc_profile=PROFILE)).info["icc_profile"] == PROFILE


def test_a_profile_of_many_segments_is_found() -> None:
    profile = bytes(range(256)) * 1000
    assert opened(encoded(IMAGE, "JPEG", icc_profile=profile)).info["icc_profile"] == profile


def test_a_palette_longer_than_its_pixels_can_name_refuses_no_bmp() -> None:
    data = bytearray(encoded(IMAGE.quantize(4), "BMP"))
    assert struct.unpack_from("<H", data, 28) == (8,)
    struct.pack_into("<I", data, 46, 300)
    assert pixels(bytes(data)) == RED


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP"])
def test_only_the_first_frame_is_opened(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (n % 256, n // 256, 9)) for n in range(1_001)]
    data = encoded(IMAGE.resize((8, 8)), kind, save_all=True, append_images=frames, lossless=True)
    assert pixels(data) == RED


def test_an_animation_begins_with_its_default_image() -> None:
    assert pixels(encoded(IMAGE, save_all=True, append_images=[Image.new("RGB", (40, 20), "blue")])) == RED


def test_a_header_that_promises_no_pixels_is_refused() -> None:
    without = b"\x89PNG\r\n\x1a\n" + b"".join(
        png_chunk(name, data)
        for name, data in [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)), (b"IEND", b"")]
    )
    with pytest.raises(ValueError, match="holds no pixels"):
        opened(without, header_only=True)


def test_a_compression_that_is_not_installed_is_refused_by_the_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.imaging.opening._has_codec", lambda _: False)
    data = bytearray(encoded(IMAGE, "TIFF", compression="tiff_lzw"))
    place = data.index(struct.pack("<HHI", 259, 3, 1)) + 8
    struct.pack_into("<H", data, place, 50001)
    with pytest.raises(ValueError, match="compression webp is not supported"):
        opened(bytes(data), header_only=True)


class CountingFile(io.BytesIO):
    """A file that counts how often it is read."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(size)


COSTLY = {
    "garbage in JPEG": b"\xff\xd8\xff\xe0" + bytes(4 << 20),
    "fill bytes in JPEG": b"\xff\xd8\xff\xe0\0\2" + b"\xff" * (4 << 20),
    "tiny segments in JPEG": b"\xff\xd8" + b"\xff\xfe\0\2" * (1 << 20),
    "tiny chunks in PNG": encoded(IMAGE)[:33] + png_chunk(b"tEXt", b"") * 400_000,
    "tiny chunks of pixels in PNG": encoded(IMAGE)[:33] + png_chunk(b"IDAT", b"") * 400_000,
    "chunks that lead nowhere in PNG": encoded(IMAGE)[:33] + b"\x7f\xff\xff\xffIDAT" * 500_000,
    "chunks that lead nowhere, then pixels": encoded(IMAGE)[:33]
    + (b"\x7f\xff\xff\xfftEXt" + png_chunk(b"IDAT", b"")) * 200_000,
    "tiny chunks in WebP": encoded(IMAGE, "WEBP")[:12] + b"abcd\0\0\0\0" * 500_000,
}


@pytest.mark.parametrize("data", COSTLY.values(), ids=COSTLY)
def test_a_header_is_read_in_bounded_work(data: bytes) -> None:
    file, media_type = CountingFile(data), sniff(data[:64])
    assert media_type
    with suppress(Exception):
        open_image(file, media_type, header_only=True)
    assert file.reads < 310_000


def test_decoders_start_one_thread() -> None:
    configure_pillow(ImageLimits(50_000_000, 32_768, 0.1, "natural"))
    assert AvifImagePlugin._get_default_max_threads() == 1
