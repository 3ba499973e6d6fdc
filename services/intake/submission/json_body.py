"""JSON bodies: their memory is counted against a limit, and large ones are parsed in a thread of their own.

Parsing 60 MB takes a quarter of a second. One thread does it for all requests: `json` and `binascii` keep the GIL
during a call, so that a second thread would only lengthen the turns of the event loop.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import structlog

from services.intake import metrics
from shared.errors import Overloaded

T = TypeVar("T")

MAX_INLINE_BYTES = 256 << 10  #: parsed on the event loop in about a millisecond; a thread costs more than it saves
RETRY_AFTER_S = 2
log = structlog.get_logger(__name__)


class BodyMemory:
    """The bytes of JSON bodies that this process holds, received or parsed. Used by the event loop and the parser."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self._lock = threading.RLock()  # `Reservation.__del__` may run inside of `change`

    def reserve(self) -> "Reservation":
        """Return a reservation of nothing yet."""
        return Reservation(self)

    def change(self, size: int) -> None:
        """Hold `size` bytes more, or less."""
        with self._lock:
            self.held_bytes += size
            metrics.BODY_BYTES.set(self.held_bytes)


class Reservation:
    """The bytes of one body, given back with its last user, which may be a thread that outlives the request."""

    def __init__(self, memory: BodyMemory) -> None:
        self.size = 0
        self._memory = memory

    def add(self, size: int, limit: int) -> None:
        """Hold `size` bytes more. Raises `Overloaded` where all bodies together would be larger than `limit` bytes."""
        if self._memory.held_bytes + size > limit:
            log.warning("JSON body refused: no memory for it", held=self._memory.held_bytes, limit=limit)
            detail = "the service holds as many large JSON bodies as it may; repeat the request, or send multipart"
            raise Overloaded(detail, retry_after=RETRY_AFTER_S)
        self._memory.change(size)
        self.size += size

    def __del__(self) -> None:
        """Give the bytes back."""
        self._memory.change(-self.size)


@cache
def body_memory() -> BodyMemory:
    """Return the count of this process."""
    return BodyMemory()


async def off_loop(size: int, act: Callable[[], T]) -> T:
    """Return what `act` returns, which works on `size` bytes: in the parser's thread where they are many."""
    if size <= MAX_INLINE_BYTES:
        return act()
    return await asyncio.get_running_loop().run_in_executor(_parser(), act)


@cache
def _parser() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="json-body")
