"""What the next step computes: which tiles, which rows of which sequences. Plain Python, knows no device.

    add ──> waiting ──admit──> running: tiles ─> prompt in chunks ─> a row a step ──> remove
               ^                  │
               └──────preempt─────┘   no page is free: the last in order starts again, its published pages may survive

Every step first gives each running answer its row, then fills up with prompts, so prompts hold up no answer.
"""

import time
from bisect import insort
from collections.abc import Iterable, Iterator

from workers.vision.engine.beam_search import Continuation
from workers.vision.engine.feature_cache import FeatureCache
from workers.vision.engine.page_pool import OutOfPages
from workers.vision.engine.page_tables import PageTables
from workers.vision.engine.schedule import Chunk, Schedule, TileWork
from workers.vision.engine.sequence import NO_SLOT, Sequence
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.packed_batch import PAGE_TOKENS

MAX_HELD_TILES = 256  # whose features wait for their prefill; one sequence may have more
HOPELESS_FACTOR = 2.0  #: by which the measured speed may be wrong before a deadline counts as out of reach


class Scheduler:
    """Used by the engine's thread only."""

    def __init__(self, tables: PageTables, features: FeatureCache, budget: StepBudget, slots: int) -> None:
        self.tables = tables
        self._features = features
        self._budget = budget
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._slots = list(reversed(range(slots)))
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

    def fork(self, sequence: Sequence, continuations: list[Continuation]) -> list[tuple[int, int]]:
        """Replace the branches by their continuations; returns the pages whose content has to be copied, from and to.

        Where no page is free for them the sequence begins again.
        """
        try:
            return self.tables.fork(sequence, continuations)
        except OutOfPages:
            self.preempt(sequence)
            return []

    def _release(self, sequence: Sequence, *, forget: bool = False) -> None:
        self.tables.release(sequence.branches, forget=forget)
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
        while self.waiting and self._slots:
            sequence = self.waiting[0]
            if sequence.branch.unread:  # preempted just now: its prompt is one token longer in a moment
                return
            prefix = self.tables.find_prefix(sequence)
            if self._is_hopeless(sequence, len(prefix) * PAGE_TOKENS):
                self._hopeless.append(self.waiting.pop(0))
                continue
            one_for_each = len(self.running)  # of the answers, which may grow meanwhile
            if self.running and not self.tables.fits(sequence, prefix, spare=one_for_each):
                return
            self.tables.open(sequence, prefix)
            sequence.slot = self._slots.pop()
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
        while True:
            try:
                for branch in sequence.branches:
                    self.tables.grow(branch, branch.length)
                return True
            except OutOfPages:
                self.preempt(victim := self.running[-1])
                if victim is sequence:
                    return False

    def _tiles(self, decoding: bool) -> Iterator[TileWork]:
        """The next tiles of each sequence; equal tiles once, known ones not at all."""
        unknown = {sequence: tiles for sequence in self.running if (tiles := self._unknown_tiles(sequence))}
        held = sum(len(sequence.features) for sequence in self.running)
        chosen: set[bytes] = set()
        wanted = {sequence: len(tiles) for sequence, tiles in unknown.items()}
        for sequence, most in self._allot(wanted, self._budget.tiles(decoding)).items():
            new = [work for work in unknown[sequence] if work.key not in chosen]
            for work in new[:most]:
                if held < MAX_HELD_TILES or sequence is self.running[0]:
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
        self.tables.take_over(sequence)
        return not sequence.needed_tiles()
