"""BMP with a palette no longer than its pixels can name (BITMAPINFOHEADER): Pillow refuses a longer one."""

import struct
from typing import BinaryIO

from shared.imaging.container import Container, as_file

_BITS, _COLOURS = 28, 46  # places of two fields, from the beginning of the file
_INFO_HEADER_END = 54


def read_bmp(file: BinaryIO, header_only: bool) -> Container:
    """Return `file`, the number of its colours lowered where it is too large; `header_only` changes nothing."""
    del header_only
    file.seek(0)
    head = file.read(_INFO_HEADER_END)
    if len(head) == _INFO_HEADER_END:
        (bits,), (colours,) = struct.unpack_from("<H", head, _BITS), struct.unpack_from("<I", head, _COLOURS)
        if bits in (1, 2, 4, 8) and colours > 1 << bits:
            lowered = head[:_COLOURS] + struct.pack("<I", 1 << bits) + head[_COLOURS + 4 :]
            return Container(as_file(lowered, file.read()), None)
    file.seek(0)
    return Container(file, None)
