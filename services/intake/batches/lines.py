"""The lines of a batch's file, read in blocks from any position on: memory holds one block, or one longer line."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from shared.errors import ObjectMissing

BLOCK_BYTES = 1 << 20

#: Returns at most so many bytes (second argument) of the file from an offset (first argument) on.
ReadAt = Callable[[int, int], Awaitable[bytes]]


class LineTooLong(Exception):
    """A line is longer than is allowed."""

    def __init__(self, number: int, limit: int) -> None:
        super().__init__(f"line {number} is longer than {limit} bytes")
        self.number = number


@dataclass(frozen=True)
class Line:
    """One line that is not blank."""

    number: int  #: from 1 on; blank lines count
    end: int  #: offset behind it in the file
    data: bytes


async def read_lines(
    read_at: ReadAt, size: int, *, offset: int = 0, number: int = 0, max_line_bytes: int
) -> AsyncIterator[Line]:
    """Yield the lines from `offset` on, where `number` lines have ended. Raises `LineTooLong`.

    Raises `ObjectMissing` where the file was cut since its size was stored.
    """
    rest = b""
    at = offset  # of what is not read yet
    while at < size:
        block = await read_at(at, BLOCK_BYTES)
        if not block:
            raise ObjectMissing(f"the file ends at byte {at} of {size}")
        at += len(block)
        *whole, rest = (rest + block).split(b"\n")
        if at >= size and rest:
            whole.append(rest)
            rest = b""
        for data in whole:
            number += 1
            offset = min(offset + len(data) + 1, size)
            if len(data) > max_line_bytes:
                raise LineTooLong(number, max_line_bytes)
            if data.strip():
                yield Line(number, offset, data)
        if len(rest) > max_line_bytes:
            raise LineTooLong(number + 1, max_line_bytes)
