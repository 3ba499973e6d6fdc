"""JPEG without the segments that no pixel depends on (ITU-T T.81, Annex B).

Of the application segments JFIF's and Adobe's tell how colours are coded. EXIF, XMP and the colour profile are taken
out; all others are dropped, further images of an MPO with them.
"""

from typing import BinaryIO

from shared.imaging.container import MAX_METADATA_BYTES, Container, Metadata, as_file

_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_WITHOUT_LENGTH = {0x01, _SOI, *range(0xD0, 0xD8)}
_MAX_SEGMENTS = 10_000
_MAX_GARBAGE_BYTES = 65_536  # between segments, all together
_APPLICATION = range(0xE0, 0xF0)
_EXIF, _XMP, _ICC = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_JFIF, _ADOBE = (0xE0, b"JFIF\0", 14), (0xEE, b"Adobe", 12)  #: marker, beginning, least length


class _Jpeg:
    """What was found in a file so far."""

    def __init__(self, file: BinaryIO, header_only: bool) -> None:
        self._file = file
        self._header_only = header_only
        self._parts: list[bytes] = [b"\xff\xd8"]
        self._exif, self._xmp = b"", b""
        self._profile: dict[int, bytes] = {}
        self._profile_parts = 0
        self._garbage = 0

    def read(self) -> Container:
        self._file.seek(2)
        for _ in range(_MAX_SEGMENTS):
            if (marker := self._next_marker()) is None:
                break
            if marker == _SOS:
                rest = self._file.read(64 if self._header_only else -1)
                self._parts += b"\xff\xda", rest
                break
            if marker == _EOI:
                self._parts.append(b"\xff\xd9")
                break
            if marker not in _WITHOUT_LENGTH:
                self._take_segment(marker)
        return Container(as_file(*self._parts), Metadata(self._exif or None, self._xmp or None, self._icc()))

    def _next_marker(self) -> int | None:
        """Skip what lies between segments; None at the end of the file."""
        while (byte := self._file.read(1)) and self._garbage < _MAX_GARBAGE_BYTES:
            if byte != b"\xff":
                self._garbage += 1
                continue
            while (code := self._file.read(1)) == b"\xff" and self._garbage < _MAX_GARBAGE_BYTES:
                self._garbage += 1
            if code and code != b"\0":
                return code[0]
        return None

    def _take_segment(self, marker: int) -> None:
        length = self._file.read(2)
        data = self._file.read(max(0, int.from_bytes(length, "big") - 2))
        if marker in _APPLICATION or marker == _COM:
            self._take_metadata(marker, data)
            kept = any(marker == m and data.startswith(s) and len(data) >= n for m, s, n in (_JFIF, _ADOBE))
        else:
            kept = True
        if kept:
            self._parts += bytes((0xFF, marker)), length, data

    def _take_metadata(self, marker: int, data: bytes) -> None:
        if marker == 0xE1 and data.startswith(_EXIF) and len(self._exif) < MAX_METADATA_BYTES:
            self._exif += data[len(_EXIF) :] if self._exif else data  # one of over 64 KB continues in the next segment
        elif marker == 0xE1 and data.startswith(_XMP) and not self._xmp:
            self._xmp = data[len(_XMP) :]
        elif marker == 0xE2 and data.startswith(_ICC) and len(data) > len(_ICC) + 2:
            number, self._profile_parts = data[len(_ICC)], data[len(_ICC) + 1]
            self._profile.setdefault(number, data[len(_ICC) + 2 :])

    def _icc(self) -> bytes | None:
        """The profile, which segments of 64 KB hold, numbered from 1; None if one is missing."""
        if not self._profile or set(self._profile) != set(range(1, self._profile_parts + 1)):
            return None
        return b"".join(part for _, part in sorted(self._profile.items()))


def read_jpeg(file: BinaryIO, header_only: bool) -> Container:
    """Return `file` without what no pixel depends on; with `header_only` also without pixels."""
    return _Jpeg(file, header_only).read()
