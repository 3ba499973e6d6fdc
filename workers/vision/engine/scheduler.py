"""What the next step computes: which tiles, which rows of which sequences. Plain Python, knows no device.

    add ──> waiting ──admit──> running: tiles ─> prompt in chunks ─> a row a step ──> remove
               ^                  │
               └──────preempt─────┘   no page is free: the last in order starts again, its published pages may survive

Every step first gives each running answer its row, then fills up with prompts, so prompts hold up no answer.
"""

import time
from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from workers.vision.engine.beam_search import Continuation
from workers.vision.engine.feature_cache import FeatureCache
from workers.vision.engine.page_pool import OutOfPages, PagePool
from workers.vision.engine.sequence import NO_SLOT, Branch, Sequence
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.packed_batch import PAGE_TOKENS

HOPELESS_FACTOR = 2.0  #: by which the measured speed may be wrong before a deadline counts as out of reach


@dataclass(frozen=True)
class Chunk:
    """The next `rows` tokens of a branch."""

    sequence: Sequence
    branch: Branch
    start: int
    rows: int

    @property
    def stop(self) -> int:
        """The token behind its last one."""
        return self.start + self.rows

    @property
    def completes(self) -> bool:
        """Whether it reaches the last token, so that the next one can be chosen."""
        return self.stop == self.branch.length


@dataclass(frozen=True)
class TileWork:
    """A tile to encode."""

    sequence: Sequence
    tile: int

    @property
    def key(self) -> bytes:
        """What identifies its pixels."""
        return self.sequence.tiles.keys[self.tile]


@dataclass(frozen=True)
class Schedule:
    """One step."""

    tiles: tuple[TileWork, ...]
    chunks: tuple[Chunk, ...]

    @property
    def rows(self) -> int:
        """Of all chunks."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def sequences(self) -> list[Sequence]:
        """Whom the step is for."""
        work: tuple[TileWork | Chunk, ...] = (*self.tiles, *self.chunks)
        return list(dict.fromkeys(one.sequence for one in work))


@dataclass(frozen=True)
class Limits:
    """What may be inside at once."""

    sequences: int
    held_tiles: int  #: features waiting for their prefill; one sequence may have more


class Scheduler:
    """Used by the engine's thread only."""

    def __init__(self, pool: PagePool, features: FeatureCache, budget: StepBudget, limits: Limits) -> None:
        self._pool = pool
        self._features = features
        self._budget = budget
        self._limits = limits
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._slots = list(reversed(range(limits.sequences)))
        self._first_is_next = False
        self._hopeless: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence by priority, then age."""
        insort(self.waiting, sequence, key=lambda waiting: waiting.order)

    def remove(self, sequence: Sequence, *, forget: bool = False) -> None:
        """Remove a sequence from running or waiting; `forget`: its pages are not shared."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence, forget=forget)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Make a running sequence wait again and give its pages to others."""
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        sequence.restart()
        self.add(sequence)

    def schedule(self) -> Schedule:
        """Admit, then choose tiles and rows."""
        self._admit()
        decodes = self._decodes()
        return Schedule(tuple(self._tiles(bool(decodes))), (*decodes, *self._prefills(bool(decodes))))

    def publish(self, chunk: Chunk) -> None:
        """The chunk's keys and values are in its pages: let others find those that are full."""
        if chunk.sequence.slot != NO_SLOT:  # else it has lost its pages meanwhile
            for page, digest in chunk.sequence.publishable(chunk.stop):
                self._pool.publish(page, digest)

    def fork(self, sequence: Sequence, continuations: list[Continuation]) -> list[tuple[int, int]]:
        """Replace the branches by their continuations, which share all full pages; returns pages to copy, from and to.

        Where no page is free for them the sequence begins again.
        """
        forks: list[Branch] = []
        copies: list[tuple[int, int]] = []
        try:
            for continuation in continuations:
                forks.append(self._fork(sequence.branches[continuation.parent], continuation.token, copies))
        except OutOfPages:
            self._release_branches(forks)
            self.preempt(sequence)
            return []
        self._release_branches(sequence.branches)
        sequence.branches = forks
        return copies

    def _fork(self, parent: Branch, token: int, copies: list[tuple[int, int]]) -> Branch:
        full = parent.computed // PAGE_TOKENS
        own = self._pool.allocate(1) if parent.computed % PAGE_TOKENS else []
        copies += [(parent.pages[full], page) for page in own]
        self._pool.acquire(parent.pages[:full])
        return Branch([*parent.tokens, token], parent.pages[:full] + own, parent.computed)

    def _release_branches(self, branches: list[Branch], *, forget: bool = False) -> None:
        for branch in branches:
            self._pool.release(branch.pages, forget=forget)
            branch.pages = []

    def _release(self, sequence: Sequence, *, forget: bool = False) -> None:
        self._release_branches(sequence.branches, forget=forget)
        if sequence.slot != NO_SLOT:
            self._slots.append(sequence.slot)
            sequence.slot, sequence.opened = NO_SLOT, False

    def take_hopeless(self) -> list[Sequence]:
        """The sequences that were not admitted because their first token would come after their deadline."""
        hopeless, self._hopeless = self._hopeless, []
        return hopeless

    def _is_hopeless(self, sequence: Sequence, cached: int) -> bool:
        """Whether the device, with nothing else to do, would take twice the time that is left for the prompt alone."""
        if (deadline := sequence.request.deadline) is None or sequence.admitted:
            return False
        tiles = sum(self._features.peek(sequence.tiles.keys[tile]) is None for tile in sequence.tiles.after(cached))
        needed_s = self._budget.seconds(len(sequence.branch.tokens) - cached, tiles)
        return time.monotonic() + needed_s / HOPELESS_FACTOR > deadline

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._limits.sequences:
            sequence = self.waiting[0]
            branch = sequence.branch
            if branch.unread:  # of a sequence preempted just now: its prompt is one token longer in a moment
                return
            shared = self._pool.find(sequence.digests((len(branch.tokens) - 1) // PAGE_TOKENS))
            needed = pages_for(len(branch.tokens) + 1) - len(shared)
            if self._is_hopeless(sequence, len(shared) * PAGE_TOKENS):
                self._hopeless.append(self.waiting.pop(0))
                continue
            spare = len(self.running)  # one page for each answer that may grow meanwhile
            if self.running and needed + self._pool.idle_among(shared) + spare > self._pool.available:
                return
            self._pool.acquire(shared)
            branch.pages = shared + self._pool.allocate(needed, after=shared[-1] if shared else None)
            branch.computed = len(shared) * PAGE_TOKENS
            sequence.slot = self._slots.pop()
            if not sequence.admitted:
                sequence.admitted, sequence.cached_tokens = True, branch.computed
            insort(self.running, self.waiting.pop(0), key=lambda running: running.order)

    def _decodes(self) -> list[Chunk]:
        chunks: list[Chunk] = []
        for sequence in list(self.running):
            ready = not (sequence.prefilling or sequence.complete)
            if sequence in self.running and ready and self._grow(sequence):
                chunks += [Chunk(sequence, branch, branch.computed, 1) for branch in sequence.branches]
        return chunks

    def _grow(self, sequence: Sequence) -> bool:
        """Give each branch the page for its next row, if need be that of the last in order; False: it was the last."""
        for branch in sequence.branches:
            while len(branch.pages) < pages_for(branch.length):
                try:
                    branch.pages += self._pool.allocate(1, after=branch.pages[-1])
                except OutOfPages:
                    victim = self.running[-1]
                    self.preempt(victim)
                    if victim is sequence:
                        return False
        return True

    def _tiles(self, decoding: bool) -> Iterator[TileWork]:
        """The next tiles of each sequence; equal tiles once, known ones not at all."""
        unknown = {sequence: tiles for sequence in self.running if (tiles := self._unknown_tiles(sequence))}
        held = sum(len(sequence.features) for sequence in self.running)
        chosen: set[bytes] = set()
        wanted = {sequence: len(tiles) for sequence, tiles in unknown.items()}
        for sequence, most in self._allot(wanted, self._budget.tiles(decoding)).items():
            new = [work for work in unknown[sequence] if work.key not in chosen]
            for work in new[:most]:
                if held < self._limits.held_tiles or sequence is self.running[0]:
                    held += 1
                    chosen.add(work.key)
                    yield work

    def _unknown_tiles(self, sequence: Sequence) -> list[TileWork]:
        """The tiles of `sequence` to encode, each content once; those in the cache are taken out of it."""
        unknown: dict[bytes, TileWork] = {}
        for tile in sequence.needed_tiles():
            work = TileWork(sequence, tile)
            if (known := self._features.get(work.key)) is not None:
                sequence.features[tile] = known
            else:
                unknown.setdefault(work.key, work)
        return list(unknown.values())

    def _prefills(self, decoding: bool) -> Iterator[Chunk]:
        """The next rows of each prompt whose tiles are encoded."""
        ready = self._distinct(sequence for sequence in self.running if sequence.prefilling and self._ready(sequence))
        wanted = {sequence: sequence.branch.missing for sequence in ready}
        for sequence, rows in self._allot(wanted, self._budget.rows(decoding)).items():
            yield Chunk(sequence, sequence.branch, sequence.branch.computed, rows)

    def _allot(self, wanted: dict[Sequence, int], left: int) -> dict[Sequence, int]:
        """Share `left` rows or tiles of a step out among those that want some, who are in order.

        While others of its priority wait, the first gets half, or if there is one alone every second one. The others
        follow by how little they want, so that neither a large prompt holds up small ones nor they hold it up.
        """
        if not wanted:
            return {}
        first, *others = wanted
        share = left
        if any(one.order[0] == first.order[0] for one in others):
            self._first_is_next = not self._first_is_next
            share = left // 2 or int(self._first_is_next)
        others.sort(key=lambda one: (one.order[0], wanted[one], one.order))
        allotted = dict.fromkeys(wanted, 0)
        for one, most in ((first, share), *((other, left) for other in others), (first, left)):
            given = min(most, left, wanted[one] - allotted[one])
            allotted[one] += given
            left -= given
        return {one: given for one, given in allotted.items() if given}

    def _distinct(self, ready: Iterable[Sequence]) -> Iterator[Sequence]:
        """Yield `ready` without sequences whose next page an earlier one computes now; they share it then."""
        coming = {digest for sequence in self.running for digest in sequence.unpublished()}
        for sequence in ready:
            start = sequence.branch.computed
            pages = sequence.digests(len(sequence.branch.tokens) // PAGE_TOKENS)[start // PAGE_TOKENS :]
            if start % PAGE_TOKENS or not pages or pages[0] not in coming:
                coming.update(pages)
                yield sequence

    def _ready(self, sequence: Sequence) -> bool:
        """Whether its tiles are encoded; what a neighbour has computed meanwhile is taken over first."""
        self._take_over(sequence)
        return not sequence.needed_tiles()

    def _take_over(self, sequence: Sequence) -> None:
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


def pages_for(tokens: int) -> int:
    """Pages that hold so many tokens."""
    return -(-tokens // PAGE_TOKENS)
