"""TIFF with a directory of its first image that holds only tags on which pixels depend (TIFF 6.0; BigTIFF).

Pillow and libtiff refuse images for a date or a resolution of the wrong type. The new directory takes the place of the
old one, which is no shorter; all else stays where it is, so that what lies behind the end of a truncated file does not
become pixels.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from shared.imaging.container import MAX_METADATA_BYTES, Container, Metadata, as_file

_ORIENTATION, _ICC = 274, 34675
#: Size and layout of the samples, compression and what it needs, colours. https://www.loc.gov/preservation/digital/formats/content/tiff_tags.shtml
_KEPT = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 280, 281, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(330, 332, 334, 338, 339, 340, 341, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
    *(32996, 32997, 34908, 34909, 50674),
}
_UNDEFINED, _BYTE, _SHORT = 7, 1, 3
_MAX_TAGS = 4096


@dataclass(frozen=True)
class _Layout:
    """How numbers are written: classic or BigTIFF, in either byte order."""

    order: str
    big: bool

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> struct.Struct:
        """Tag, type, number of values, then the values or their place."""
        return struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))

    @property
    def offset(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.big else "I"))


def read_tiff(file: BinaryIO, header_only: bool) -> Container:
    """Return `file` with a directory of the tags that pixels depend on. Offsets stay: `header_only` changes nothing."""
    del header_only
    file.seek(0)
    data = file.read()
    try:
        return _rewrite(data)
    except (struct.error, KeyError, ValueError):
        file.seek(0)
        return Container(file, None)


def _rewrite(data: bytes) -> Container:
    layout = _Layout("<" if data[:2] == b"II" else ">", data[2:4] in (b"+\0", b"\0+"))
    (place,) = layout.offset.unpack_from(data, 8 if layout.big else 4)
    (count,) = layout.count.unpack_from(data, place)
    if not 0 < count <= _MAX_TAGS:
        raise ValueError(f"{count} tags")
    first = place + layout.count.size
    entries = [layout.entry.unpack_from(data, first + n * layout.entry.size) for n in range(count)]
    kept = [entry for entry in entries if entry[0] in _KEPT or _is_orientation(layout, entry)]
    profile = next((_values(layout, entry, data) for entry in entries if entry[0] == _ICC), None)
    directory = layout.count.pack(len(kept)) + b"".join(layout.entry.pack(*entry) for entry in kept)
    directory += bytes(layout.offset.size)  # no further image
    return Container(as_file(data[:place], directory, data[place + len(directory) :]), Metadata(icc=profile))


def _is_orientation(layout: _Layout, entry: tuple[int, int, int, bytes]) -> bool:
    tag, kind, count, value = entry
    return (tag, kind, count) == (_ORIENTATION, _SHORT, 1) and 1 <= struct.unpack_from(layout.order + "H", value)[
        0
    ] <= 8


def _values(layout: _Layout, entry: tuple[int, int, int, bytes], data: bytes) -> bytes | None:
    """The bytes of a tag; None if they are not all there."""
    _, kind, count, _ = entry
    if kind not in (_BYTE, _UNDEFINED) or not 128 <= count <= MAX_METADATA_BYTES:
        return None
    (place,) = layout.offset.unpack(entry[3])
    found = data[place : place + count]
    return found if len(found) == count else None
