"""Seeded damage to a file: bits, bytes, lengths, ranges, whole parts, and the contents of checked parts of a PNG."""

import random
import struct
import zlib
from collections.abc import Callable

from tests.image_files import png_chunks

#: Numbers at which sizes, offsets and counts overflow.
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
HEADER_BYTES = 512  # half of all damage is done here, where the structure is
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Mutation = Callable[[random.Random, bytearray, bytes], bytearray]


def mutate(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """Damage `data` in one to eight places; `other` is a file to take parts from."""
    if data.startswith(PNG_SIGNATURE) and draw.random() < 0.5:
        return _damage_chunk(draw, data, other)
    damaged = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        damaged = draw.choice(MUTATIONS)(draw, damaged or bytearray(b"\0"), other)
    return bytes(damaged)


def _place(draw: random.Random, data: bytearray) -> int:
    end = len(data) if draw.random() < 0.5 else min(len(data), HEADER_BYTES)
    return draw.randrange(end)


def _flip(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    del other
    for _ in range(draw.choice((1, 2, 16))):
        data[_place(draw, data)] ^= 1 << draw.randrange(8)
    return data


def _overwrite(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    del other
    at = _place(draw, data)
    data[at : at + draw.choice((1, 4, 64))] = draw.randbytes(draw.choice((1, 4, 64)))
    return data


def _number(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    """A number at the edge of its type, of one, two or four bytes in either order."""
    del other
    kind = draw.choice(("B", "<H", ">H", "<I", ">I"))
    at, value = _place(draw, data), draw.choice(EDGES)
    packed = struct.pack(kind, value & ((1 << 8 * struct.calcsize(kind)) - 1))
    data[at : at + len(packed)] = packed
    return data


def _truncate(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    del other
    return data[: _place(draw, data)]


def _remove(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    del other
    at = _place(draw, data)
    del data[at : at + draw.choice((1, 2, 8, 128))]
    return data


def _repeat(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    del other
    at, length = _place(draw, data), draw.choice((1, 4, 64, 512))
    data[at:at] = data[at : at + length] * draw.choice((1, 2, 50))
    return data


def _graft(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    """A part of another file in the place of one's own."""
    at, start = _place(draw, data), draw.randrange(len(other))
    length = draw.choice((4, 32, 400, len(other)))
    data[at : at + length] = other[start : start + length]
    return data


def _append(draw: random.Random, data: bytearray, other: bytes) -> bytearray:
    del draw
    return data + other


MUTATIONS: tuple[Mutation, ...] = (_flip, _overwrite, _number, _number, _truncate, _remove, _repeat, _graft, _append)


def _damage_chunk(draw: random.Random, data: bytes, other: bytes) -> bytes:
    """Damage inside a chunk whose checksum then fits again: what checksums would hide is reached."""
    chunks = [part for _, part in png_chunks(data)]
    at = draw.randrange(len(chunks))
    name, body = chunks[at][4:8], bytearray(chunks[at][8:-4]) or bytearray(b"\0")
    if name == b"IDAT" and draw.random() < 0.5:
        body = _recompress(draw, body, other)
    else:
        body = draw.choice(MUTATIONS)(draw, body, other)
    chunks[at] = struct.pack(">I", len(body)) + name + bytes(body) + struct.pack(">I", zlib.crc32(name + bytes(body)))
    if draw.random() < 0.2:
        chunks.insert(draw.randrange(len(chunks)), draw.choice(chunks))
    return PNG_SIGNATURE + b"".join(chunks)


def _recompress(draw: random.Random, body: bytearray, other: bytes) -> bytearray:
    """Damage to the rows themselves."""
    try:
        rows = bytearray(zlib.decompress(bytes(body)))
    except zlib.error:  # one of several parts
        return body
    return bytearray(zlib.compress(bytes(draw.choice(MUTATIONS)(draw, rows, other))))
