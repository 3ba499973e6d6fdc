"""Images whose file ends before their pixels do: decoded as far as they go, as viewers do, where little is missing."""

import re
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from PIL import Image, ImageFile

_SENTINEL = 0xA7  #: value of rows that no decoder has written
_GREY = 128
_COEFFICIENTS = set(range(64))  #: of a block, from the mean to the finest detail
_SCAN = re.compile(rb"\xff\xda\0.([\x01-\x04])(.{10})", re.DOTALL)  #: number of components, then their tables


def is_truncation(error: Exception) -> bool:
    """Return whether Pillow raised `error` because the file ends too early."""
    return isinstance(error, OSError) and "truncated" in str(error)


def load_truncated(
    open_image: Callable[[], Image.Image], data: bytes, max_missing_rows: float
) -> tuple[Image.Image, str]:
    """Return the loaded image of the truncated file `data`, and a warning. Raises `OSError` if too much is missing.

    `open_image` opens it anew, `max_missing_rows` is a share of all rows.
    """
    probe = open_image()
    if _is_interlaced(probe):
        raise OSError("its file is truncated, and being interlaced it lacks rows everywhere")
    if probe.info.get("progressive"):
        if not _has_every_coefficient(data):
            raise OSError("its file is truncated, and being progressive it lacks detail everywhere")
        return _load_leniently(open_image()), "the file is truncated: the finest detail is missing"
    first, missing = _find_missing_rows(probe)
    if missing > max_missing_rows * probe.height:
        lost = f"{missing} of {probe.height} rows are missing"
        raise OSError(f"its file is truncated: {lost}, more than TILEQ_MAX_MISSING_ROWS={max_missing_rows:g} allows")
    image = _load_leniently(open_image())
    if missing and image.format != "JPEG" and image.mode in ("L", "RGB"):  # libjpeg paints them itself
        grey = _GREY if image.mode == "L" else (_GREY,) * 3
        image.paste(grey, (0, first, image.width, first + missing))
    lost = f"{missing} of {image.height} rows are missing" if missing else "its pixels are complete"
    return image, f"the file is truncated: {lost}"


def _is_interlaced(image: Image.Image) -> bool:
    """Whether missing data is spread over the image: PNG's and GIF's coarse rows come first."""
    if image.format == "GIF" and isinstance(image, ImageFile.ImageFile):
        return any(bool(tile.args[1]) for tile in image.tile if isinstance(tile.args, tuple))
    return bool(image.info.get("interlace"))


def _find_missing_rows(image: Image.Image) -> tuple[int, int]:
    """Return the first row that can't be decoded, and how many; at the top of a BMP, which begins with the last row."""
    bands = len(image.getbands())
    blank = Image.new(image.mode, image.size, _SENTINEL if bands == 1 else (_SENTINEL,) * bands)
    untouched = np.asarray(blank.crop((0, 0, 1, 1)))
    image.im = blank.im
    with suppress(OSError):
        image.load()
    rows = (np.asarray(blank) == untouched).reshape(image.height, -1).all(axis=1)
    trailing, leading = _leading(rows[::-1]), _leading(rows)
    return (0, leading) if leading > trailing else (image.height - trailing, trailing)


def _leading(flags: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> int:
    """How many flags are true before the first false one."""
    return len(flags) if flags.all() else int(np.argmin(flags))


def _load_leniently(image: Image.Image) -> Image.Image:
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    try:
        image.load()
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    return image


def _has_every_coefficient(data: bytes) -> bool:
    """Whether complete scans of a progressive JPEG hold each coefficient of each component, if only coarsely."""
    have: dict[int, set[int]] = {}
    for match in list(_SCAN.finditer(data))[:-1]:
        count, header = match[1][0], match[2]
        first, last = header[2 * count], header[2 * count + 1]
        for component in header[: 2 * count : 2]:
            have.setdefault(component, set()).update(range(first, last + 1))
    return bool(have) and all(coefficients >= _COEFFICIENTS for coefficients in have.values())
