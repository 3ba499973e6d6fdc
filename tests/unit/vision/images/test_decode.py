"""`natural` shows what a viewer shows, `original` what the model card's code shows."""

import io
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.images import ImageLimits, sniff
from shared.imaging.opening import configure_pillow, open_image
from shared.imaging.orientation import upright_size
from tests.encoded import encoded
from tests.image_files import (
    DISPLAY_P3,
    SRGB,
    bmp32,
    cmyk_profile,
    grey_profile,
    png_chunk,
    png_with,
    rgb_profile,
    tiff16,
    tiff_with,
)
from workers.vision.images.decode import DecodedImage, DecodeError, decode

NATURAL = ImageLimits(max_pixels=50_000_000, max_side=32_768, max_missing_rows=0.1, mode="natural")
ORIGINAL = replace(NATURAL, mode="original")


def corner(data: bytes, limits: ImageLimits = NATURAL) -> Any:
    """The first pixel."""
    return decode(data, limits).image.getpixel((0, 0))


def near(found: Any, expected: tuple[int, ...], within: int = 2) -> bool:
    return all(abs(one - other) <= within for one, other in zip(found, expected, strict=True))


class TestTransparency:
    MASKS = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)

    @pytest.mark.parametrize("masks", [MASKS, (0, 0, 0, 0)])
    @pytest.mark.parametrize("header_bytes", [56, 108, 124])
    def test_a_bmp_whose_alpha_is_0_everywhere_is_opaque(self, header_bytes: int, masks: tuple[int, ...]) -> None:
        data = bmp32([(30, 60, 200, 0), (0, 0, 0, 0)], header_bytes, masks)
        assert corner(data) == corner(data, ORIGINAL) == (200, 60, 30)

    def test_a_bmp_with_alpha_lies_over_white(self) -> None:
        assert corner(bmp32([(30, 60, 200, 0), (0, 0, 0, 255)], 124, self.MASKS)) == (255, 255, 255)

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    def test_other_formats_lie_over_white(self, kind: str) -> None:
        assert corner(encoded(Image.new("RGBA", (4, 4), (10, 20, 30, 0)), kind, lossless=True)) == (255, 255, 255)

    def test_half_transparent_grey_is_half_white(self) -> None:
        assert near(corner(encoded(Image.new("LA", (4, 4), (0, 128)))), (127, 127, 127))

    @pytest.mark.parametrize(("value", "shown"), [(1000, (255, 255, 255)), (1001, (4, 4, 4))])
    def test_one_of_65536_greys_can_be_transparent(self, value: int, shown: tuple[int, ...]) -> None:
        grey = Image.fromarray(np.full((4, 4), value, np.uint16))
        data = png_with(grey, png_chunk(b"tRNS", struct.pack(">H", 1000)))
        assert corner(data) == shown


def wide(values: Any, kind: Any) -> bytes:
    """A TIFF of one row of samples."""
    return encoded(Image.fromarray(np.array([values], kind)), "TIFF")


def shown(data: bytes) -> list[int]:
    """The row that is shown, grey."""
    image = np.asarray(decode(data, NATURAL).image)
    assert (image[..., 0] == image[..., 1]).all()
    return [int(value) for value in image[0, :, 0]]


class TestRange:
    @pytest.mark.parametrize(
        ("values", "kind", "expected"),
        [
            ([0, 0.5, 1], np.float32, [0, 128, 255]),
            ([0, 0.25, 0.5], np.float32, [0, 64, 128]),
            ([0, 32768, 65535], np.float32, [0, 128, 255]),
            ([0, 1, 2], np.float32, [0, 128, 255]),
            ([-1, 0, 1], np.float32, [0, 128, 255]),
            ([0, np.nan, 1], np.float32, [0, 0, 255]),
            ([0, np.inf, 1, -np.inf], np.float32, [0, 255, 255, 0]),
            ([0, 1 << 23, 1 << 24], np.int32, [0, 128, 255]),
            ([0, 128, 255], np.int32, [0, 128, 255]),
            ([0, 128, 200], np.int32, [0, 128, 200]),
            ([-100, 0, 100], np.int32, [0, 128, 255]),
            ([0, 2048, 4095], np.uint16, [0, 128, 255]),
            ([0, 512, 1000], np.uint16, [0, 128, 249]),
            ([0, 0x8080, 0xFFFF], np.uint16, [0, 128, 255]),
            ([0, 0, 0], np.uint16, [0, 0, 0]),
            ([0, 0, 0], np.float32, [0, 0, 0]),
        ],
    )
    def test_a_tiff_is_scaled_by_its_range(self, values: list[float], kind: Any, expected: list[int]) -> None:
        assert shown(wide(values, kind)) == expected

    def test_32_bits_are_signed_only_where_the_file_says_so(self) -> None:
        data = bytearray(wide([0, -(1 << 31), -1], np.int32))
        place = data.index(struct.pack("<HHI", 339, 3, 1)) + 8
        assert shown(bytes(data)) == [255, 0, 255]
        struct.pack_into("<H", data, place, 1)
        assert shown(bytes(data)) == [0, 128, 255]

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("white", [255, 1023, 4095, 16383])
    def test_colours_may_use_the_lower_bits_only(self, order: str, white: int) -> None:
        data = tiff16([(white, white // 2, 0), (0, 0, 0)], order)
        assert near(corner(data), (255, 128, 0), within=1)

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_colours_of_16_bits_stay(self, order: str) -> None:
        assert corner(tiff16([(0xC8FF, 0x3C00, 0x1E80), (0, 0, 0)], order)) == (200, 60, 30)

    def test_colours_of_the_lower_bits_may_be_transparent(self) -> None:
        assert near(corner(tiff16([(4095, 0, 0, 0x8000), (0, 0, 0, 0xFFFF)], "<", alpha=True)), (255, 127, 127))

    def test_dark_colours_of_8_bits_stay_dark(self) -> None:
        assert corner(encoded(Image.new("RGB", (4, 4), (10, 20, 30)), "TIFF")) == (10, 20, 30)

    def test_a_png_says_what_is_white(self) -> None:
        assert shown(encoded(Image.fromarray(np.array([[0, 4095, 0x8080]], np.uint16)))) == [0, 16, 128]

    def test_white_may_be_0(self) -> None:
        data = bytearray(wide([0, 2048, 4095], np.uint16))
        struct.pack_into("<H", data, data.index(struct.pack("<HHI", 262, 3, 1)) + 8, 0)
        assert shown(bytes(data)) == [255, 127, 0]

    def test_samples_none_of_which_is_a_number_are_refused(self) -> None:
        with pytest.raises(DecodeError, match="none of its samples is a number"):
            decode(wide([np.nan, np.inf], np.float32), NATURAL)

    def test_the_card_clips(self) -> None:
        assert corner(wide([0x8080], np.uint16), ORIGINAL) == (255, 255, 255)


class TestColour:
    RED = Image.new("RGB", (8, 8), (200, 80, 60))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    def test_a_profile_is_applied(self, kind: str) -> None:
        data = encoded(self.RED, kind, icc_profile=rgb_profile(DISPLAY_P3), lossless=True)
        assert near(corner(data), (216, 69, 50), within=4)
        assert near(corner(data, ORIGINAL), (200, 80, 60), within=3)

    def test_primaries_in_another_order_are_other_colours(self) -> None:
        red, green, blue = SRGB
        data = encoded(self.RED, icc_profile=rgb_profile((green, blue, red)))
        assert near(corner(data), (60, 200, 80))

    def test_srgb_changes_no_byte(self) -> None:
        noise = Image.effect_noise((64, 64), 90).convert("RGB")
        assert decode(encoded(noise, icc_profile=rgb_profile(SRGB)), NATURAL).image.tobytes() == noise.tobytes()

    def test_transparency_stays(self) -> None:
        clear = Image.new("RGBA", (8, 8), (200, 80, 60, 128))
        found = corner(encoded(clear, icc_profile=rgb_profile(DISPLAY_P3)))
        assert near(found, ((216 + 255) // 2, (69 + 255) // 2, (50 + 255) // 2), within=3)

    @pytest.mark.parametrize("mode", ["L", "LA"])
    def test_grey_has_profiles_too(self, mode: str) -> None:
        grey = Image.new("L", (8, 8), 128).convert(mode)
        assert near(corner(encoded(grey, icc_profile=grey_profile(1.0))), (188, 188, 188))

    def test_grey_may_have_a_profile_of_colours(self) -> None:
        assert near(corner(encoded(Image.new("L", (8, 8), 128), icc_profile=rgb_profile(DISPLAY_P3))), (128, 128, 128))

    @pytest.mark.parametrize("profile", [b"noise", rgb_profile(SRGB)[:200], grey_profile(2.2), bytes(200)])
    def test_a_profile_that_is_broken_or_of_other_images_is_ignored(self, profile: bytes) -> None:
        assert corner(encoded(self.RED, icc_profile=profile)) == (200, 80, 60)

    def test_inks_are_what_their_profile_says(self) -> None:
        white, black, green = (255, 128, 128), (0, 128, 128), (128, 60, 180)
        corners = [white, *[black] * 7, green, *[black] * 7]  # cyan alone prints green
        cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
        for kind in ("TIFF", "JPEG"):
            red, green_shown, blue = corner(encoded(cyan, kind, icc_profile=cmyk_profile(corners)))
            assert green_shown > red + 50, kind
            assert green_shown > blue + 50, kind
        paper = encoded(Image.new("CMYK", (8, 8)), "TIFF", icc_profile=cmyk_profile(corners))
        assert near(corner(paper), (255, 255, 255))

    def test_inks_without_a_profile_are_what_browsers_show(self) -> None:
        assert near(corner(encoded(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF")), (0, 255, 255))


class TestOrientation:
    def test_a_record_and_its_tiles_agree(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        data = png_with(Image.new("RGB", (40, 20)), png_chunk(b"eXIf", exif.tobytes()[6:]), b"IEND")
        opened = open_image(io.BytesIO(data), "image/png", header_only=True)
        assert upright_size(opened, "natural") == decode(data, NATURAL).image.size == (20, 40)
        assert decode(data, ORIGINAL).image.size == (40, 20)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_pillow_turns_tiff_once(self, orientation: int) -> None:
        data = tiff_with(Image.new("RGB", (40, 20)), (274, 3, 1, struct.pack("<HH", orientation, 0)))
        assert decode(data, NATURAL).image.size == ((20, 40) if orientation >= 5 else (40, 20))


PHOTO = Image.effect_noise((400, 300), 60).convert("RGB")


def decoded(data: bytes) -> DecodedImage:
    found = decode(data, NATURAL)
    assert found.image.size == PHOTO.size
    return found


class TestTruncated:
    @pytest.mark.parametrize("cut", [1, 2, 4, 50])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_jpeg_short_of_a_few_bytes_is_shown_with_a_warning(self, cut: int, progressive: bool) -> None:
        whole = encoded(PHOTO, "JPEG", quality=90, progressive=progressive)
        found = decoded(whole[:-cut])
        assert "truncated" in (found.warning or "")
        difference = np.abs(np.asarray(found.image, int) - np.asarray(decoded(whole).image))
        assert difference[:270].mean() < 5
        assert decoded(whole).warning is None

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF"])
    def test_so_are_other_formats(self, kind: str) -> None:
        image = PHOTO.convert("L")
        whole = encoded(image, kind, interlace=0)
        found = decoded(whole[: -len(whole) // 40])
        assert "truncated" in (found.warning or "")
        rows = slice(30, None) if kind == "BMP" else slice(0, 270)
        assert (np.asarray(found.image)[rows] == np.asarray(image.convert("RGB"))[rows]).all()

    def test_rows_that_are_missing_are_grey_and_counted(self) -> None:
        whole = encoded(PHOTO, "BMP")
        found = decoded(whole[: -20 * 1200])
        assert found.warning == "the file is truncated: 20 of 300 rows are missing"
        assert (np.asarray(found.image)[:20] == 128).all()

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
    @pytest.mark.parametrize("progressive", [False, True])
    def test_an_image_that_lacks_much_is_refused(self, kind: str, progressive: bool) -> None:
        whole = encoded(PHOTO, kind, progressive=progressive)
        with pytest.raises(DecodeError, match="truncated"):
            decode(whole[: len(whole) // (4 if progressive else 2)], NATURAL)

    def test_a_refusal_counts_the_rows_and_names_the_setting(self) -> None:
        reason = "truncated: 100 of 300 rows are missing, more than TILEQ_MAX_MISSING_ROWS=0.1 allows"
        with pytest.raises(DecodeError, match=reason):
            decode(encoded(PHOTO, "BMP")[: -100 * 1200], NATURAL)

    @pytest.mark.parametrize("cut", [1, 2, 8])
    @pytest.mark.parametrize("subsampling", [0, 2])
    def test_a_small_jpeg_without_its_end_lacks_no_whole_row(self, cut: int, subsampling: int) -> None:
        image = PHOTO.resize((64, 48)).point(lambda value: value // 3)
        whole = encoded(image, "JPEG", subsampling=subsampling)
        found = decode(whole[:-cut], NATURAL)
        assert found.warning == "the file is truncated: the end of its last rows may be missing"
        assert (np.asarray(found.image)[:32] == np.asarray(decode(whole, NATURAL).image)[:32]).all()

    @pytest.mark.parametrize("lossless", [False, True])
    def test_a_webp_short_of_a_few_bytes_is_shown_with_a_warning(self, lossless: bool) -> None:
        whole = encoded(PHOTO, "WEBP", lossless=lossless)
        found = decoded(whole[:-50])
        assert found.warning == f"the file is truncated: 50 of {len(whole)} bytes are missing"
        assert np.abs(np.asarray(found.image, int) - np.asarray(decoded(whole).image))[:270].mean() < 5

    def test_a_webp_that_lacks_much_is_refused(self) -> None:
        whole = encoded(PHOTO, "WEBP")
        with pytest.raises(DecodeError, match="failed to read"):
            decode(whole[: len(whole) // 2], NATURAL)

    def test_rows_of_the_last_pass_are_shown_as_those_above(self) -> None:
        whole = encoded(PHOTO.convert("P"), "GIF", interlace=1)
        found = decoded(whole[: -len(whole) // 80])
        rows, expected = np.asarray(found.image), np.asarray(decoded(whole).image)
        assert "rows are missing" in (found.warning or "")
        assert (rows[299] == expected[298]).all()
        assert (rows[::2] == expected[::2]).all()

    def test_an_interlaced_image_that_lacks_an_earlier_pass_is_refused(self) -> None:
        whole = encoded(PHOTO.convert("P"), "GIF", interlace=1)
        limits = replace(NATURAL, max_missing_rows=1)
        with pytest.raises(DecodeError):
            decode(whole[: len(whole) // 3], limits)

    @pytest.mark.parametrize("cut", [1, 100])
    def test_what_lies_behind_a_truncated_tiff_becomes_no_pixels(self, cut: int) -> None:
        found = decoded(encoded(PHOTO, "TIFF")[:-cut])
        assert found.warning == "the file is truncated: 1 of 300 rows are missing"

    def test_a_setting_refuses_them_and_so_does_the_card(self) -> None:
        data = encoded(PHOTO, "JPEG")[:-50]
        for limits in (replace(NATURAL, max_missing_rows=0), ORIGINAL):
            with pytest.raises(DecodeError, match="truncated"):
                decode(data, limits)


class TestHeic:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("pillow_heif", reason="the extra `heif` is not installed")
        configure_pillow(NATURAL)

    def test_it_is_decoded(self) -> None:
        data = encoded(Image.new("RGB", (64, 48), (200, 60, 30)), "HEIF", quality=95)
        assert sniff(data[:64]) in ("image/heic", "image/heif")
        assert near(corner(data), (200, 60, 30), within=6)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_a_record_and_its_tiles_agree(self, orientation: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(Image.new("RGB", (64, 48)), "HEIF", exif=exif.tobytes())
        opened = open_image(io.BytesIO(data), "image/heic", header_only=True)
        assert upright_size(opened, "natural") == decode(data, NATURAL).image.size

    def test_its_profile_is_applied(self) -> None:
        image = Image.new("RGB", (64, 48), (200, 80, 60))
        data = encoded(image, "HEIF", quality=95, icc_profile=rgb_profile(DISPLAY_P3))
        assert near(corner(data), (216, 69, 50), within=8)


@pytest.mark.parametrize("data", [b"", b"BM", b"\0" * 64, b"RIFF\0\0\0\0WEBP", b"GIF89a" * 9])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data, NATURAL)
    assert caught.value.code == "undecodable_image"


@pytest.mark.parametrize(
    ("frame", "bits"),
    [(0xC3, 8), (0xC5, 8), (0xC7, 8), (0xCB, 8), (0xC0, 12), (0xC1, 12)],
    ids=["lossless", "differential", "differential lossless", "lossless arithmetic", "12 bits", "12 bits extended"],
)
def test_a_jpeg_of_a_kind_that_is_not_decoded_is_refused(frame: int, bits: int) -> None:
    data = bytearray(encoded(PHOTO, "JPEG"))
    place = data.index(b"\xff\xc0")
    data[place + 1], data[place + 4] = frame, bits
    with pytest.raises(DecodeError) as caught:
        decode(bytes(data), NATURAL)
    assert caught.value.code == "undecodable_image"


def test_an_error_of_a_decoder_without_a_text_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("workers.vision.images.decode.open_image", fail)
    with pytest.raises(DecodeError, match="it is broken: AssertionError"):
        decode(encoded(PHOTO), NATURAL)
