"""Which page of the KV cache holds what: reference counts, and prefixes shared by the hash of all that led to them.

    free ──allocate──> in use ──release──> idle (its content is known by a digest) ──allocate, oldest first──> in use
      ^                   │  ^                │
      └──────release──────┘  └────acquire─────┘

A page is written by one sequence. Once full it may be published under a digest and read by any number of others.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class OutOfPages(Exception):
    """Fewer pages are free or idle than were asked for."""


class PagePool:
    """Pages by number; knows nothing of tensors. Used by the engine's thread only."""

    def __init__(self, pages: int) -> None:
        self.size = pages
        self._free: NDArray[np.bool_] = np.ones(pages, dtype=np.bool_)
        self._free_count = pages
        self._readers = [0] * pages
        self._digest: dict[int, bytes] = {}
        self._page: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # the next to be given away first

    @property
    def available(self) -> int:
        """Pages that an allocation could get."""
        return self._free_count + len(self._idle)

    @property
    def used(self) -> int:
        """Pages that sequences hold."""
        return self.size - self.available

    @property
    def published(self) -> int:
        """Pages that another sequence could share."""
        return len(self._page)

    def find(self, digests: Iterable[bytes]) -> list[int]:
        """The pages of the longest known beginning of `digests`; acquires nothing."""
        found = []
        for digest in digests:
            if (page := self._page.get(digest)) is None:
                break
            found.append(page)
        return found

    def idle_among(self, pages: Sequence[int]) -> int:
        """Number of `pages` without a reader: acquiring them takes them from the available ones."""
        return sum(page in self._idle for page in pages)

    def acquire(self, pages: Sequence[int]) -> None:
        """Hold found pages too."""
        for page in pages:
            self._idle.pop(page, None)
            self._readers[page] += 1

    def allocate(self, count: int, after: int | None = None) -> list[int]:
        """Hold `count` pages of unknown content, if possible one run that continues page `after`.

        Raises `OutOfPages` and allocates nothing if there are not as many.
        """
        if count > self.available:
            raise OutOfPages
        while self._free_count < count:
            self._forget(self._idle.popitem(last=False)[0])
        taken: list[int] = []
        for _ in range(count):
            follows = after is not None and after + 1 < self.size and bool(self._free[after + 1])
            page = after + 1 if after is not None and follows else self._roomy(count - len(taken))
            self._free[page] = False
            self._free_count -= 1
            self._readers[page] = 1
            taken.append(page)
            after = page
        return taken

    def publish(self, page: int, digest: bytes) -> None:
        """Let others find the full page; the first page of a digest stays the one that is found."""
        if digest not in self._page and page not in self._digest:
            self._page[digest] = page
            self._digest[page] = digest

    def release(self, pages: Sequence[int], *, forget: bool = False) -> None:
        """Release a sequence's pages; the last are reused first. `forget`: they are no longer found by their digest."""
        for page in reversed(pages):
            if forget:
                self._unpublish(page)
            self._readers[page] -= 1
            if self._readers[page]:
                continue
            if page in self._digest:
                self._idle[page] = None
            else:
                self._set_free(page)

    def _forget(self, page: int) -> None:
        self._unpublish(page)
        self._set_free(page)

    def _set_free(self, page: int) -> None:
        self._free[page] = True
        self._free_count += 1

    def _unpublish(self, page: int) -> None:
        if digest := self._digest.pop(page, None):
            del self._page[digest]

    def _roomy(self, count: int) -> int:
        """Where a new run begins: in the middle of the widest gap, so that the sequence before it can grow too."""
        start, width = self._widest_gap()
        middle = start + width // 2
        grows_into = start > 0 and self._readers[start - 1] > 0
        return middle if grows_into and width - width // 2 >= count else start

    def _widest_gap(self) -> tuple[int, int]:
        """First page and width of the longest run of free pages."""
        edges = np.flatnonzero(np.diff(self._free, prepend=False, append=False))
        starts, stops = edges[::2], edges[1::2]
        widest = int((stops - starts).argmax())
        return int(starts[widest]), int(stops[widest] - starts[widest])
