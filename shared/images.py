"""Image formats and limits: one list for intake's header check and the worker's decoder. Imports no Pillow.

A format is told by the first bytes of the file, never by a name or a declared media type.
"""

from dataclasses import dataclass
from typing import Literal

from shared.settings import ImageSettings

ImageMode = Literal["natural", "original"]

#: Media type of every format that is accepted, and Pillow's name of it.
PILLOW_FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
}
#: The formats as error messages name them.
ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"

SNIFF_BYTES = 64  #: length of the start of a file that `sniff` reads
_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),  # BigTIFF
    (b"MM\0+", "image/tiff"),
)
_AVIF_BRANDS = {b"avif", b"avis"}


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one image, and the mode in which it is decoded."""

    max_pixels: int  #: width x height
    max_side: int  #: pixels
    max_frames: int
    mode: ImageMode

    @classmethod
    def of(cls, settings: ImageSettings) -> "ImageLimits":
        """Return the limits that the settings name."""
        return cls(settings.max_image_pixels, settings.max_image_side, settings.max_image_frames, settings.image_mode)


def sniff(start: bytes) -> str | None:
    """Return the media type that the first `SNIFF_BYTES` bytes of a file show, or None for one that is not accepted."""
    for signature, media_type in _SIGNATURES:
        if start.startswith(signature):
            return media_type
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start[4:8] == b"ftyp":
        box_end = min(len(start), int.from_bytes(start[:4], "big"))
        if _AVIF_BRANDS & {start[place : place + 4] for place in range(8, box_end, 4)}:
            return "image/avif"
    return None
