"""The pages that sequences hold: prefixes that others computed, room to grow, forks that share what is full."""

from collections.abc import Iterable

from workers.vision.engine.beam_search import Continuation
from workers.vision.engine.page_pool import OutOfPages, PagePool
from workers.vision.engine.schedule import Chunk
from workers.vision.engine.sequence import NO_SLOT, Branch, Sequence
from workers.vision.model.packed_batch import PAGE_TOKENS, pages_for


class PageTables:
    """Writes `Branch.pages`. Used by the engine's thread only."""

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool

    def find_prefix(self, sequence: Sequence) -> list[int]:
        """Pages of the longest prefix that was computed before; one token at least is left to compute."""
        return self._pool.find(sequence.digests((len(sequence.branch.tokens) - 1) // PAGE_TOKENS))

    def fits(self, sequence: Sequence, prefix: list[int], spare: int) -> bool:
        """Whether `spare` pages are left when the sequence holds what it needs for its next token."""
        needed = pages_for(len(sequence.branch.tokens) + 1) - len(prefix)
        return needed + self._pool.idle_among(prefix) + spare <= self._pool.available

    def open(self, sequence: Sequence, prefix: list[int]) -> None:
        """Give a sequence its prefix and pages up to its next token. Raises `OutOfPages`."""
        branch = sequence.branch
        self._pool.acquire(prefix)
        branch.pages = prefix
        branch.computed = len(prefix) * PAGE_TOKENS
        self.grow(branch, len(branch.tokens) + 1)
        if not sequence.admitted:
            sequence.admitted, sequence.cached_tokens = True, branch.computed

    def grow(self, branch: Branch, tokens: int) -> None:
        """Give a branch pages for so many tokens. Raises `OutOfPages`."""
        if (missing := pages_for(tokens) - len(branch.pages)) > 0:
            branch.pages += self._pool.allocate(missing, after=branch.pages[-1] if branch.pages else None)

    def publish(self, chunk: Chunk) -> None:
        """The chunk's keys and values are in its pages: let others find those that are full."""
        if chunk.sequence.slot != NO_SLOT:  # else it has lost its pages meanwhile
            for page, digest in chunk.sequence.publishable(chunk.stop):
                self._pool.publish(page, digest)

    def take_over(self, sequence: Sequence) -> None:
        """Share the next pages where a neighbour has computed them meanwhile."""
        branch = sequence.branch
        while branch.computed % PAGE_TOKENS == 0 and branch.missing > PAGE_TOKENS:
            index = branch.computed // PAGE_TOKENS
            found = self._pool.find(sequence.digests(index + 1)[index:])
            if not found:
                return
            self._pool.acquire(found)
            self._pool.release([branch.pages[index]])
            branch.pages[index] = found[0]
            branch.computed += PAGE_TOKENS
            if not sequence.count:
                sequence.cached_tokens += PAGE_TOKENS

    def fork(self, sequence: Sequence, continuations: Iterable[Continuation]) -> list[tuple[int, int]]:
        """Replace the branches by their continuations; returns the pages whose content has to be copied, from and to.

        Raises `OutOfPages` and changes nothing.
        """
        forks: list[Branch] = []
        copies: list[tuple[int, int]] = []
        try:
            for continuation in continuations:
                forks.append(self._fork(sequence.branches[continuation.parent], continuation.token, copies))
        except OutOfPages:
            self.release(forks)
            raise
        self.release(sequence.branches)
        sequence.branches = forks
        return copies

    def release(self, branches: Iterable[Branch], *, forget: bool = False) -> None:
        """Let go of all pages; `forget`: they are not shared."""
        for branch in branches:
            self._pool.release(branch.pages, forget=forget)
            branch.pages = []

    def _fork(self, parent: Branch, token: int, copies: list[tuple[int, int]]) -> Branch:
        full = parent.computed // PAGE_TOKENS
        own = self._pool.allocate(1) if parent.computed % PAGE_TOKENS else []
        copies += [(parent.pages[full], page) for page in own]
        self._pool.acquire(parent.pages[:full])
        return Branch([*parent.tokens, token], parent.pages[:full] + own, parent.computed)
