"""Images whose file ends before their pixels do: decoded as far as they go, as viewers do, where little is missing."""

import re
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_Flags = NDArray[np.bool_]  #: one for each row

_SENTINEL = 0xA7  #: value of rows that no decoder has written
_GREY = 128
_WEBP_FAILURE = "failed to read next frame"
_COEFFICIENTS = set(range(64))  #: of a block, from the mean to the finest detail
_SCAN = re.compile(rb"\xff\xda\0.([\x01-\x04])(.{10})", re.DOTALL)  #: number of components, then their tables


def is_truncation(error: Exception) -> bool:
    """Return whether Pillow raised `error` because the file ends too early; libwebp does not tell why it fails."""
    return isinstance(error, OSError) and ("truncated" in str(error) or str(error) == _WEBP_FAILURE)


def load_truncated(
    open_image: Callable[[bytes], Image.Image], data: bytes, max_missing_rows: float
) -> tuple[Image.Image, str] | None:
    """Return the loaded image of the truncated file `data`, and a warning; None if it can't be shown at all.

    `open_image` opens a file, `max_missing_rows` is a share of all rows; if more are missing, `OSError` says how many.
    """
    probe = open_image(data)
    if probe.format == "WEBP":
        return _load_webp(open_image, data, max_missing_rows)
    if probe.info.get("progressive"):
        if not _has_every_coefficient(data):
            return None
        return _load_leniently(open_image(data)), "the file is truncated: the finest detail is missing"
    rows = _missing_rows(probe)
    image = _load_leniently(open_image(data))
    if image.format == "JPEG":  # libjpeg holds back complete rows while it waits for data, and paints others grey
        rows &= _grey_rows(image)
    missing = int(rows.sum())
    if missing > max_missing_rows * image.height:
        lost = f"{missing} of {image.height} rows are missing"
        raise OSError(f"its file is truncated: {lost}, more than TILEQ_MAX_MISSING_ROWS={max_missing_rows:g} allows")
    if missing and _is_interlaced(probe):
        if rows[::2].any():
            return None  # of an earlier pass than the last, which holds every second row
        _copy_rows_above(image, rows)
    elif missing and image.format != "JPEG" and image.mode in ("L", "RGB"):
        first = int(np.argmax(rows))
        image.paste(_GREY if image.mode == "L" else (_GREY,) * 3, (0, first, image.width, first + missing))
    lost = f"{missing} of {image.height} rows are missing" if missing else "the end of its last rows may be missing"
    return image, f"the file is truncated: {lost}"


def _load_webp(
    open_image: Callable[[bytes], Image.Image], data: bytes, max_missing: float
) -> tuple[Image.Image, str] | None:
    """Load a WebP with zeros for what is missing at its end; at most a share of `max_missing` of its bytes."""
    size = 8 + int.from_bytes(data[4:8], "little")
    missing = size - len(data)
    if not 0 < missing <= max_missing * size:
        return None
    image = open_image(data + bytes(missing))
    try:
        image.load()
    except OSError:
        return None
    return image, f"the file is truncated: {missing} of {size} bytes are missing"


def _is_interlaced(image: Image.Image) -> bool:
    """Whether missing data is spread over the image: PNG's and GIF's coarse rows come first."""
    if image.format == "GIF" and isinstance(image, ImageFile.ImageFile):
        return any(bool(tile.args[1]) for tile in image.tile if isinstance(tile.args, tuple))
    return bool(image.info.get("interlace"))


def _copy_rows_above(image: Image.Image, rows: _Flags) -> None:
    for row in map(int, np.flatnonzero(rows)):
        image.paste(image.crop((0, row - 1, image.width, row)), (0, row))


def _missing_rows(image: Image.Image) -> _Flags:
    """Return which rows can't be decoded: at an end of the image, or anywhere if it is interlaced."""
    interlaced = _is_interlaced(image)
    bands = len(image.getbands())
    blank = Image.new(image.mode, image.size, _SENTINEL if bands == 1 else (_SENTINEL,) * bands)
    untouched = np.asarray(blank.crop((0, 0, 1, 1)))
    image.im = blank.im
    with suppress(OSError):
        image.load()
    rows: _Flags = (np.asarray(blank) == untouched).reshape(image.height, -1).all(axis=1)
    if interlaced:
        return rows
    missing = np.zeros_like(rows)
    trailing, leading = _leading(rows[::-1]), _leading(rows)  # leading: a BMP begins with the last row
    missing[slice(leading) if leading > trailing else slice(image.height - trailing, None)] = True
    return missing


def _grey_rows(image: Image.Image) -> _Flags:
    """Return which rows at the bottom are of the grey that stands for blocks without data."""
    rows = np.asarray(image).reshape(image.height, -1)
    grey: _Flags = (rows == (255 - _GREY if image.mode == "CMYK" else _GREY)).all(axis=1)
    missing = np.zeros_like(grey)
    missing[image.height - _leading(grey[::-1]) :] = True
    return missing


def _leading(flags: _Flags) -> int:
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
