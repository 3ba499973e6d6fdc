"""The lines of a file, read in blocks."""

import asyncio
import tracemalloc

import pytest

from services.intake.batches import lines
from services.intake.batches.lines import Line, LineTooLong, read_lines
from shared.errors import ObjectMissing


def read(data: bytes, *, offset: int = 0, number: int = 0, max_line_bytes: int = 1000) -> list[Line]:
    async def read_at(start: int, length: int) -> bytes:
        return data[start : start + length]

    async def collect() -> list[Line]:
        found = read_lines(read_at, len(data), offset=offset, number=number, max_line_bytes=max_line_bytes)
        return [line async for line in found]

    return asyncio.run(collect())


@pytest.mark.parametrize("block", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("data", [b"", b"a", b"a\n", b"a\nbc\n\n  \ndef", b"\n\na\r\nb\n"])
def test_lines_are_those_of_the_file_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch, block: int, data: bytes
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    found = read(data)
    expected = [(n, text) for n, text in enumerate(data.split(b"\n"), 1) if text.strip()]
    assert [(line.number, line.data) for line in found] == expected
    for n, line in enumerate(found):
        assert read(data, offset=line.end, number=line.number) == found[n + 1 :]


@pytest.mark.parametrize("data", [b"ok\n" + b"x" * 9 + b"\n", b"ok\n" + b"x" * 9, b"ok\n" + b"x" * 90])
def test_a_line_that_is_too_long_is_named(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 4)
    with pytest.raises(LineTooLong, match="line 2 is longer than 8 bytes"):
        read(data, max_line_bytes=8)


def test_a_file_that_was_cut_since_is_no_longer_there() -> None:
    async def nothing(start: int, length: int) -> bytes:
        return b""

    async def collect() -> None:
        async for _ in read_lines(nothing, 10, max_line_bytes=8):
            pass

    with pytest.raises(ObjectMissing, match="byte 0 of 10"):
        asyncio.run(collect())


def peak_bytes(size: int) -> int:
    """Memory that reading a file of `size` bytes, 4 kB a line, takes at most."""
    line = b"x" * 4095 + b"\n"

    async def read_at(start: int, length: int) -> bytes:
        return (line * (length // len(line) + 2))[start % len(line) :][: min(length, size - start)]

    async def count() -> int:
        return sum([1 async for _ in read_lines(read_at, size, max_line_bytes=1 << 20)])

    tracemalloc.start()
    try:
        assert asyncio.run(count()) == size // len(line)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_file() -> None:
    small, large = (peak_bytes(size << 20) for size in (4, 64))
    assert large < small + (1 << 20)
