"""Image formats and limits: one list for intake's header check and the worker's decoder. Imports no Pillow.

A format is told by the first bytes of the file, never by a name or a declared media type.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a decoder process has no settings, and they are half of its memory
    from shared.settings.images import ImageSettings

ImageMode = Literal["natural", "original"]

_FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/webp": "WEBP",
    "image/gif": "GIF",
    "image/bmp": "BMP",
    "image/tiff": "TIFF",
    "image/avif": "AVIF",
}
_HEIF_FORMATS = {"image/heic": "HEIF", "image/heif": "HEIF"}
MEDIA_TYPES = (*_FORMATS, *_HEIF_FORMATS)  #: of every format that may be accepted

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
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_BRANDS = {b"mif1", b"mif2", b"msf1"}


@dataclass(frozen=True)
class ImageLimits:
    """Limits of one image, and the mode in which it is decoded."""

    max_pixels: int  #: width x height
    max_side: int  #: pixels
    max_missing_rows: float  #: share of the rows that may be missing at the end of a truncated file; 0: none
    mode: ImageMode

    @classmethod
    def of(cls, settings: "ImageSettings") -> "ImageLimits":
        """Return the limits that the settings name."""
        return cls(settings.max_image_pixels, settings.max_image_side, settings.max_missing_rows, settings.image_mode)


def accepted_formats() -> dict[str, str]:
    """Return the media type of every format that is accepted, and Pillow's name of it.

    HEIC is accepted where the extra `heif` is installed.
    """
    return _FORMATS | _HEIF_FORMATS if find_spec("pillow_heif") else _FORMATS


def accepted_names() -> str:
    """Return the accepted formats as error messages name them."""
    heic = "image/heic" in accepted_formats()
    return f"JPEG, PNG, WebP, GIF, BMP, TIFF{', AVIF and HEIC' if heic else ' and AVIF'}"


def sniff(start: bytes) -> str | None:
    """Return the media type that the first `SNIFF_BYTES` bytes of a file show; None for a format that is not known."""
    for signature, media_type in _SIGNATURES:
        if start.startswith(signature):
            return media_type
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "image/webp"
    if start[4:8] == b"ftyp":
        box_end = min(len(start), int.from_bytes(start[:4], "big"))
        brands = {start[place : place + 4] for place in range(8, box_end, 4)}
        if _AVIF_BRANDS & brands:
            return "image/avif"
        if _HEIC_BRANDS & brands:
            return "image/heic"
        if _HEIF_BRANDS & brands:
            return "image/heif"
    return None
