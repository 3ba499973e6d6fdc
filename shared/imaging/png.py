"""PNG without the chunks that no pixel depends on (https://www.w3.org/TR/png-3/).

Ancillary chunks are dropped where they are broken, by length, checksum, content or place, as libpng does; Pillow
refuses the image. Animation is dropped too: the default image is the one shown.
"""

import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from shared.imaging.container import MAX_METADATA_BYTES, Container, Metadata, as_file

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PALETTE = 3  # colour type
_CRITICAL = (b"IHDR", b"PLTE", b"IDAT")
_END = b"\0\0\0\0IEND\xaeB`\x82"
_READ = (b"tRNS", b"iCCP", b"eXIf", b"iTXt")
_XMP_KEYWORD = b"XML:com.adobe.xmp\0"
_MAX_CHUNKS = 100_000  # later ones are not read, unless they are pixels
_MAX_SEARCHES = 8  # for pixels behind a chunk whose length is wrong
_MAX_CANDIDATES = 8  # of one search


class _Png:
    """What was found in a file so far."""

    def __init__(self, file: BinaryIO, header_only: bool) -> None:
        self._file = file
        self._header_only = header_only
        self._parts: list[bytes] = [SIGNATURE]
        self._colour_type = -1
        self._seen = set[bytes]()
        self._metadata: dict[str, bytes] = {}
        self._searches = 0

    def read(self) -> Container:
        for count, (kind, length) in enumerate(self._chunks()):
            if self._header_only and count > _MAX_CHUNKS:
                break
            if kind in _CRITICAL and not self._is_suggestion(kind):
                self._take_critical(kind, length)
            elif kind in _READ and count < _MAX_CHUNKS and length <= MAX_METADATA_BYTES:
                self._take_ancillary(kind, length)
            else:
                self._file.seek(length + 4, 1)
        return Container(as_file(*self._parts, _END), Metadata(**self._metadata))

    def _chunks(self) -> Iterator[tuple[bytes, int]]:
        """Yield type and length of each chunk; the file then stands at its data."""
        self._file.seek(0, 2)
        size = self._file.tell()
        place = len(SIGNATURE)
        while place + 8 <= size:
            self._file.seek(place)
            length, kind = struct.unpack(">I4s", self._file.read(8))
            if length > size - place - 12 and kind not in _CRITICAL and (found := self._next_pixels(place, size)):
                place = found
                continue
            if kind == b"IEND":
                return
            yield kind, length
            place += length + 12

    def _next_pixels(self, place: int, size: int) -> int | None:
        """The place of an intact chunk of pixels behind a chunk whose length leads out of the file."""
        self._searches += 1
        if self._searches > _MAX_SEARCHES:
            return None
        self._file.seek(place)
        rest = self._file.read(size - place)
        at = rest.find(b"IDAT")
        for _ in range(_MAX_CANDIDATES):
            if at < 4:
                return None
            (length,) = struct.unpack_from(">I", rest, at - 4)
            end = at + 4 + length
            if rest[end : end + 4] == struct.pack(">I", zlib.crc32(rest[at:end])):
                return place + at - 4
            at = rest.find(b"IDAT", at + 1)
        return None

    def _is_suggestion(self, kind: bytes) -> bool:
        """Whether a palette only suggests colours, for screens of few of them (5.6)."""
        return kind == b"PLTE" and self._colour_type != _PALETTE

    def _take_critical(self, kind: bytes, length: int) -> None:
        if kind == b"IDAT" and self._header_only:
            if kind not in self._seen:
                self._parts.append(struct.pack(">I4s", length, kind))
            self._file.seek(length + 4, 1)
        else:
            data = self._file.read(length)
            if len(data) == length:
                self._parts += struct.pack(">I4s", length, kind), data, self._file.read(4).ljust(4, b"\0")
            else:  # what there is of the last chunk
                self._parts += struct.pack(">I4s", len(data), kind), data, struct.pack(">I", zlib.crc32(kind + data))
            if kind == b"IHDR" and len(data) > 9:
                self._colour_type = data[9]
        self._seen.add(kind)

    def _take_ancillary(self, kind: bytes, length: int) -> None:
        data, checksum = self._file.read(length), self._file.read(4)
        if checksum != struct.pack(">I", zlib.crc32(kind + data)):
            return
        if kind == b"eXIf":
            self._metadata.setdefault("exif", data)
        elif kind == b"iTXt" and data.startswith(_XMP_KEYWORD) and data[len(_XMP_KEYWORD) :][:1] == b"\0":
            self._metadata.setdefault("xmp", data[len(_XMP_KEYWORD) + 2 :].split(b"\0", 2)[-1])
        elif b"IDAT" in self._seen or kind in self._seen:  # too late, or twice
            return
        elif kind == b"iCCP" and not self._header_only:
            with suppress(zlib.error, ValueError):
                self._metadata["icc"] = _unpack(data[data.index(b"\0") + 2 :])
        elif kind == b"tRNS" and self._transparency_fits(length):
            self._parts += struct.pack(">I4s", length, kind), data, checksum
            self._seen.add(kind)

    def _transparency_fits(self, length: int) -> bool:
        if self._colour_type == _PALETTE:
            return b"PLTE" in self._seen and 0 < length <= 256
        return length == {0: 2, 2: 6}.get(self._colour_type)


def read_png(file: BinaryIO, header_only: bool) -> Container:
    """Return `file` without what no pixel depends on; with `header_only` also without pixels."""
    return _Png(file, header_only).read()


def _unpack(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, MAX_METADATA_BYTES)
    if unpacker.unconsumed_tail:
        raise ValueError("larger than any profile")
    return unpacked
