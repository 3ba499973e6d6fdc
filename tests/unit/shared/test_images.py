"""The list of image formats."""

import pytest

from shared.images import MEDIA_TYPES, ImageLimits, sniff
from shared.settings.roles import Settings


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"BM", "image/bmp"),
        (b"MM\0+", "image/tiff"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0avifmif1miaf", "image/avif"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0heicavif", "image/heic"),  # avif stands behind the end of the box
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf", "image/heif"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", None),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"", None),
    ],
)
def test_a_format_is_told_by_the_first_bytes(start: bytes, media_type: str | None) -> None:
    assert sniff(start) == media_type
    assert media_type is None or media_type in MEDIA_TYPES


def test_limits_are_those_of_the_settings() -> None:
    limits = ImageLimits.of(Settings(max_image_pixels=5, max_image_side=6, max_missing_rows=0.5, image_mode="original"))
    assert (limits.max_pixels, limits.max_side, limits.max_missing_rows, limits.mode) == (
        5,
        6,
        0.5,
        "original",
    )
