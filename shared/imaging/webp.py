"""WebP without the chunks that no pixel depends on (RFC 9649): the first frame, and a RIFF size that is true."""

import struct
from typing import BinaryIO

from shared.imaging.container import MAX_METADATA_BYTES, Container, Metadata, as_file

_MAX_CHUNKS = 100_000  # metadata behind more of them is not read
_ANIMATION, _ALPHA = 0x02, 0x10  # flags of VP8X
_METADATA = {b"ICCP": "icc", b"EXIF": "exif", b"XMP ": "xmp"}


def read_webp(file: BinaryIO, header_only: bool) -> Container:
    """Return `file` without what no pixel depends on. libwebp reads no header alone: `header_only` changes nothing."""
    del header_only
    file.seek(12)
    chunks: dict[bytes, bytes] = {}
    for _ in range(_MAX_CHUNKS):
        if len(head := file.read(8)) < 8:
            break
        kind, length = struct.unpack("<4sI", head)
        if kind in chunks:  # a later frame
            file.seek(length + (length & 1), 1)
        else:
            chunks[kind] = file.read(length)
            file.seek(length & 1, 1)
    metadata = {_METADATA[kind]: data for kind, data in chunks.items() if kind in _METADATA and data}
    kept = _pixels(chunks)
    if not kept:
        file.seek(0)
        return Container(file, None)
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) & 1) for kind, data in kept)
    found = Metadata(**{name: data for name, data in metadata.items() if len(data) <= MAX_METADATA_BYTES})
    return Container(as_file(b"RIFF", struct.pack("<I", 4 + len(body)), b"WEBP", body), found)


def _pixels(chunks: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The chunks of the first frame, in their order; none if there is no whole frame."""
    still = next((kind for kind in chunks if kind in (b"VP8 ", b"VP8L")), None)
    extended = chunks.get(b"VP8X", b"")
    if len(extended) < 10:
        return [(still, chunks[still])] if still else []
    flags = extended[0] & (_ALPHA | _ANIMATION)
    head = (b"VP8X", bytes([flags]) + extended[1:10])
    if flags & _ANIMATION:
        return (
            [head, *((kind, chunks[kind]) for kind in (b"ANIM", b"ANMF"))] if {b"ANIM", b"ANMF"} <= set(chunks) else []
        )
    if not still:
        return []
    alpha = [(b"ALPH", chunks[b"ALPH"])] if still == b"VP8 " and chunks.get(b"ALPH") else []
    return [head, *alpha, (still, chunks[still])]
