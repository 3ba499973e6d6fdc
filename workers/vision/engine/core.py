"""The resident engine's step: schedule, launch, settle. Runs in the one thread that owns the device.

    plain        schedule 1 ─ launch 1 ─ sample 1 ─ settle 1 ─ schedule 2 ─ launch 2 ─ …
    pipelined    … schedule 2 ─ launch 2 ─ settle 1 ─ sample 2 ─ schedule 3 ─ launch 3 ─ settle 2 ─ …

Pipelined, the host reads the tokens of a step, hands out their text and chooses how to sample the next ones while the
device computes the next step, whose ids it has itself. The host then knows all tokens before the one it samples, so
penalties, masks and stop strings are exact. A request that a token ends has one row computed in vain, which is counted.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

from shared.tokenization.tokenizer import Tokenizer
from workers.vision.checkpoint.config import Config
from workers.vision.engine.base import Done
from workers.vision.engine.beam_search import BeamSearch
from workers.vision.engine.engine_thread import Outcome
from workers.vision.engine.errors import Cancelled, DeadlineExceeded, NonFiniteLogits, OutOfMemory
from workers.vision.engine.feature_cache import FeatureCache
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.model_runner import Forward, ModelRunner
from workers.vision.engine.page_pool import PagePool
from workers.vision.engine.page_tables import PageTables
from workers.vision.engine.schedule import Chunk, Schedule, TileWork
from workers.vision.engine.scheduler import Scheduler
from workers.vision.engine.sequence import Sequence, make_sequence
from workers.vision.engine.stats import EngineStats
from workers.vision.engine.step_allowance import HANG_FACTOR
from workers.vision.engine.step_budget import StepBudget
from workers.vision.engine.step_timer import StepTimer
from workers.vision.engine.torch_errors import translate
from workers.vision.model.fast_path import FastPath
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.model.transfers import Mark, Readback

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Parts:
    """What an engine is put together from."""

    runner: ModelRunner
    config: Config
    tokenizer: Tokenizer
    pages: int
    feature_bytes: int
    slots: int  #: sequences that may run at once
    budget: StepBudget
    paths: tuple[FastPath, ...] = ()
    pipelined: bool = False  #: the host reads a step's tokens while the device computes the next


@dataclass(frozen=True)
class Launched:
    """A step in the device's queue."""

    schedule: Schedule
    marks: tuple[Mark, Mark, Mark]  #: before it, after its tiles, after its rows
    forward: Forward | None


@dataclass(frozen=True)
class Unread:
    """A step whose tokens are chosen."""

    launched: Launched
    sequences: list[Sequence]
    tokens: Readback | None  #: of `sequences`


class EngineCore:
    """See `Core`."""

    def __init__(
        self, parts: Parts, leave: Callable[[RequestHandle, Outcome], None], progress: Callable[[], None]
    ) -> None:
        """`leave` is called with each outcome, `progress` whenever a part of a step is over."""
        self._runner, self._config, self._tokenizer = parts.runner, parts.config, parts.tokenizer
        self._budget, self._paths, self._pipelined = parts.budget, parts.paths, parts.pipelined
        self._pool = PagePool(parts.pages)
        self._tables = PageTables(self._pool)
        self._features = FeatureCache(parts.feature_bytes)
        self._scheduler = Scheduler(self._tables, self._features, parts.budget, parts.slots)
        self._timer = StepTimer(parts.budget, waits=parts.pipelined)
        self._leave, self._progress = leave, progress
        self._unread: Unread | None = None
        self._counts: Counter[str] = Counter()

    @property
    def busy(self) -> bool:
        """There is something to compute."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @torch.inference_mode()
    def step(self) -> None:
        """One iteration."""
        began = time.perf_counter()
        schedule = self._scheduler.schedule()
        self._refuse_hopeless()
        try:
            launched = self._launch(schedule)
            if self._pipelined:
                self._settle()
            self._sample(launched)
            if not self._pipelined:
                self._settle()
        except Exception as error:
            self._recover(schedule, translate(error))
        self._counts["steps"] += 1
        self._timer.step_over(began)

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in."""
        self._scheduler.add(sequence)

    def drop_unwanted(self, *, everything: bool = False) -> None:
        """End the cancelled sequences, or all of them, and those whose deadline has passed."""
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            if everything or sequence.handle.cancelled:
                self._end_sequence(sequence, Cancelled())
            elif sequence.handle.late:
                self._end_sequence(sequence, DeadlineExceeded())

    def prepare(self, handle: RequestHandle, arrival: int) -> Sequence:
        """The sequence of a request, made in its caller's thread. Raises `ContextExceeded`."""
        cache_tokens = self._pool.size * PAGE_TOKENS
        return make_sequence(handle, arrival, self._config, self._tokenizer, cache_tokens)

    def stats(self) -> EngineStats:
        """What the core itself knows of this moment."""
        return EngineStats(
            running=len(self._scheduler.running),
            step_allowance=HANG_FACTOR * self._timer.expected_s,
            finished=self._counts["finished"],
            generated_tokens=self._counts["tokens"],
            pages=self._pool.size,
            cache_tokens=self._pool.size * PAGE_TOKENS,
            used_pages=self._pool.used,
            shared_pages=self._pool.published,
            feature_bytes=self._features.bytes,
            encoded_tiles=self._features.misses,
            feature_hits=self._features.hits,
            prompt_tokens=self._counts["prompt"],
            cached_tokens=self._counts["cached"],
            preemptions=self._scheduler.preemptions,
            steps=self._counts["steps"],
            discarded_rows=self._counts["discarded_rows"],
            computed=dict(self._runner.computed),
            step_s=dict(self._timer.seconds),
            fast_paths={path.name: path.state for path in self._paths},
            fast_path_details={path.name: path.detail for path in self._paths},
        )

    def _refuse_hopeless(self) -> None:
        for sequence in self._scheduler.take_hopeless():
            self._end_sequence(sequence, DeadlineExceeded())

    def _launch(self, schedule: Schedule) -> Launched:
        """Queue a step: features of its tiles, then the logits of its rows."""
        began, forward = self._runner.mark(), None
        if schedule.tiles:
            self._encode(list(schedule.tiles))
        encoded = self._runner.mark()
        for chunk in schedule.chunks:
            chunk.sequence.enter("prefill")
        if schedule.chunks:
            self._timer.expect(rows=schedule.rows)
            forward = self._runner.forward(list(schedule.chunks))
        self._progress()
        return Launched(schedule, (began, encoded, self._runner.mark()), forward)

    def _encode(self, tiles: list[TileWork]) -> None:
        """Give features to the sequences that asked and to the cache, where equal tiles of others find them."""
        for work in tiles:
            work.sequence.enter("vision")
        self._timer.expect(tiles=len(tiles))
        for work, found in zip(tiles, self._runner.encode(tiles), strict=True):
            work.sequence.features[work.tile] = found
            self._features.put(work.key, found)
        self._progress()

    def _sample(self, launched: Launched) -> None:
        """Choose the next token of each chunk that completes its branch. Only beams are read at once."""
        chunks = self._still_wanted(launched.schedule)
        forward = launched.forward
        places: dict[Sequence, list[int]] = {}
        for place, chunk in enumerate(forward.chunks if forward else ()):
            if not chunk.sequence.ended:
                places.setdefault(chunk.sequence, []).append(place)
        plain = [sequence for sequence in places if not sequence.beams]
        tokens = self._runner.choose(forward, [places[one][0] for one in plain]) if forward and plain else None
        for chunk in chunks:
            chunk.branch.computed = chunk.stop
        for sequence in plain:
            sequence.branch.unread = True
        self._unread = Unread(launched, plain, tokens)
        for sequence, rows in places.items():
            sequence.features.clear()
            if forward and sequence.beams:
                self._search(sequence, sequence.beams, forward.logits[rows])

    def _still_wanted(self, schedule: Schedule) -> list[Chunk]:
        """The chunks whose sequences have not ended meanwhile; the rows of the others were computed in vain."""
        chunks = [chunk for chunk in schedule.chunks if not chunk.sequence.ended]
        self._counts["discarded_rows"] += schedule.rows - sum(chunk.rows for chunk in chunks)
        return chunks

    def _settle(self) -> None:
        """Wait for a step that was sampled; share its pages, hand out its tokens."""
        if (unread := self._unread) is None:
            return
        self._timer.measure(unread.launched.schedule, unread.launched.marks, self._progress)
        tokens = unread.tokens.read() if unread.tokens else []
        for chunk in unread.launched.schedule.chunks:
            self._tables.publish(chunk)
        for sequence, token in zip(unread.sequences, tokens, strict=True):
            sequence.branch.unread = False
            if not sequence.ended:
                self._accept(sequence, token)
        self._unread = None
        if self._budget.fitted():
            log.info("steps may be larger again", rows=self._budget.most_rows, tiles=self._budget.most_tiles)

    def _accept(self, sequence: Sequence, token: int) -> None:
        """Append a token, hand out its text, end what is complete."""
        if token < 0:
            self._end_sequence(sequence, NonFiniteLogits(), forget=True)
            return
        sequence.enter("decode")
        sequence.branch.tokens.append(token)
        sequence.say(token)
        if sequence.text.stopped or sequence.count >= sequence.limit:
            self._finish(sequence)

    def _search(self, sequence: Sequence, beams: BeamSearch, logits: Tensor) -> None:
        """One step of a beam search; an error ends this request alone."""
        try:
            self._advance(sequence, beams, logits)
        except Exception as error:
            self._end_sequence(sequence, translate(error), forget=True)

    def _advance(self, sequence: Sequence, beams: BeamSearch, logits: Tensor) -> None:
        """Go on with the best beams: their text comes at the end, in one piece, because beams change until then."""
        sequence.enter("decode")
        sequence.count += 1
        continuations = beams.advance(logits, [sequence.row(branch) for branch in sequence.branches])
        if continuations:
            for source, target in self._scheduler.fork(sequence, continuations):
                self._runner.copy_page(source, target)
            return
        sequence.count = 0
        for token in beams.best:
            if not sequence.text.stopped:
                sequence.say(token)
        self._finish(sequence)

    def _finish(self, sequence: Sequence) -> None:
        text = sequence.text
        sequence.handle.delta(text.finish(), sequence.count)
        done = sequence.handle.done(
            text.text, stopped=text.stopped, completion_tokens=sequence.count, cached_tokens=sequence.cached_tokens
        )
        self._end_sequence(sequence, done)

    def _end_sequence(self, sequence: Sequence, outcome: Outcome, *, forget: bool = False) -> None:
        self._scheduler.remove(sequence, forget=forget)
        sequence.ended = True
        if isinstance(outcome, Done):
            self._counts.update(
                finished=1,
                tokens=outcome.completion_tokens,
                prompt=outcome.prompt_tokens,
                cached=outcome.cached_tokens,
            )
        self._leave(sequence.handle, outcome)

    def _recover(self, schedule: Schedule, error: Exception) -> None:
        """A step failed. Smaller steps may fit into the memory; anything else ends the requests that were in it."""
        failing = schedule.sequences
        if isinstance(error, OutOfMemory):
            self._features.clear()
            if self._budget.halve():
                log.warning("no memory for a step, the next ones are half as large", error=str(error))
                return
            failing = failing[-1:]
        elif self._unread:
            failing = list(dict.fromkeys(failing + self._unread.sequences))
            self._unread = None
        log.error("a step failed", requests=[sequence.request.id for sequence in failing], error=repr(error))
        for sequence in failing:
            if not sequence.ended:
                self._end_sequence(sequence, error, forget=True)
