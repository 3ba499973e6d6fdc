"""The engine's iteration: schedule, launch, settle. Runs in the one thread that owns the device.

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
from workers.vision.engine import sampler
from workers.vision.engine.base import (
    Cancelled,
    ContextExceeded,
    DeadlineExceeded,
    Done,
    EngineStats,
    NonFiniteLogits,
    OutOfMemory,
)
from workers.vision.engine.beam_search import BeamSearch, Continuation
from workers.vision.engine.detokenize import detokenizer_of
from workers.vision.engine.engine_thread import Outcome
from workers.vision.engine.feature_cache import FeatureCache
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.model_runner import Forward, ModelRunner
from workers.vision.engine.page_pool import OutOfPages, PagePool
from workers.vision.engine.scheduler import Limits, Schedule, Scheduler, TileWork
from workers.vision.engine.sequence import Branch, Sequence, tile_spans
from workers.vision.engine.step_allowance import HANG_FACTOR
from workers.vision.engine.step_budget import StepBudget
from workers.vision.engine.torch_errors import translate
from workers.vision.model.fast_path import FastPath
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.model.transfers import Mark, Readback
from workers.vision.prompts import TEMPLATES

log = structlog.get_logger(__name__)
NON_FINITE = "the model computed NaN or infinity for this request"


@dataclass(frozen=True)
class Parts:
    """What an engine is put together from."""

    runner: ModelRunner
    config: Config
    tokenizer: Tokenizer
    pages: int
    feature_bytes: int
    limits: Limits
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
        self._pool = PagePool(parts.pages)
        self._features = FeatureCache(parts.feature_bytes)
        self._budget, self._paths = parts.budget, parts.paths
        self._scheduler = Scheduler(self._pool, self._features, parts.budget, parts.limits)
        self._stop = TEMPLATES[self._config.template].stop
        self._end = self._tokenizer.token_id(self._stop)
        self._leave = leave
        self._progress = progress
        self._pipelined = parts.pipelined
        self._unread: Unread | None = None
        self._device_s = 0.0  # of this step: waited for, or computed in the host's own thread
        self._expected_s = 0.0  # of the part of the step that is in progress
        self._counts: Counter[str] = Counter()
        self._seconds = {"vision": 0.0, "prefill": 0.0, "decode": 0.0, "host": 0.0}

    @property
    def busy(self) -> bool:
        """There is something to compute."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @torch.inference_mode()
    def step(self) -> None:
        """One iteration."""
        began = time.perf_counter()
        schedule = self._scheduler.schedule()
        for sequence in self._scheduler.take_hopeless():
            self._end_sequence(sequence, DeadlineExceeded())
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
        self._seconds["host"] += max(0.0, time.perf_counter() - began - self._device_s)
        self._device_s = 0.0

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
        request = handle.request
        capacity = min(self._config.context, self._pool.size * PAGE_TOKENS // request.sampling.num_beams - 1)
        room = capacity - len(request.prompt.ids)
        if room < 1:
            holder = "context of the model" if capacity == self._config.context else "key-value cache"
            raise ContextExceeded(
                f"the prompt has {len(request.prompt.ids)} tokens and the {holder} holds {capacity}; send fewer tiles"
            )
        tiles = tile_spans(request, self._config.tokens_per_tile)
        text = detokenizer_of(request, self._tokenizer, self._stop)
        limit = min(room, request.sampling.max_new_tokens)
        sequence = Sequence(handle, tiles, text, limit, arrival)
        if request.sampling.num_beams > 1:
            sequence.beams = BeamSearch(request.sampling, self._end, limit)
        return sequence

    def stats(self) -> EngineStats:
        """The figures of this moment; what waits outside is not in them."""
        return EngineStats(
            running=len(self._scheduler.running),
            step_allowance=HANG_FACTOR * self._expected_s,
            finished=self._counts["finished"],
            generated_tokens=self._counts["tokens"],
            memory_bytes=torch.cuda.memory_allocated() if torch.cuda.is_available() else None,
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
            step_s=dict(self._seconds),
            fast_paths={path.name: path.state for path in self._paths},
            fast_path_details={path.name: path.detail for path in self._paths},
        )

    def _launch(self, schedule: Schedule) -> Launched:
        """Queue a step: features of its tiles, then the logits of its rows."""
        began, forward = self._runner.mark(), None
        if schedule.tiles:
            self._encode(list(schedule.tiles))
        encoded = self._runner.mark()
        for chunk in schedule.chunks:
            chunk.sequence.enter("prefill")
        if schedule.chunks:
            self._expected_s = schedule.rows * self._budget.row_s
            forward = self._runner.forward(list(schedule.chunks))
        launched = Launched(schedule, (began, encoded, self._runner.mark()), forward)
        self._progress()
        return launched

    def _encode(self, tiles: list[TileWork]) -> None:
        """Give features to the sequences that asked and to the cache, where equal tiles of others find them."""
        for work in tiles:
            work.sequence.enter("vision")
        self._expected_s = len(tiles) * self._budget.tile_s
        for work, found in zip(tiles, self._runner.encode(tiles), strict=True):
            work.sequence.features[work.tile] = found
            self._features.put(work.key, found)
        self._progress()

    def _sample(self, launched: Launched) -> None:
        """Choose the next token of each chunk that completes its branch. Only beams are read at once."""
        places: dict[Sequence, list[int]] = {}
        for place, chunk in enumerate(launched.forward.chunks if launched.forward else ()):
            places.setdefault(chunk.sequence, []).append(place)
        self._counts["discarded_rows"] += sum(c.rows for c in launched.schedule.chunks if c.sequence.ended)
        going = {sequence: at for sequence, at in places.items() if not sequence.ended}
        plain = [sequence for sequence in going if not sequence.beams]
        tokens = None
        if launched.forward and plain:
            rows = [sequence.row(sequence.branch) for sequence in plain]
            tokens = self._runner.choose(launched.forward, [going[sequence][0] for sequence in plain], rows)
        for chunk in launched.schedule.chunks:
            if not chunk.sequence.ended:
                chunk.branch.computed = chunk.stop
        for sequence in plain:
            sequence.branch.unread = True
        for chunk in launched.schedule.chunks:
            if chunk.sequence.beams and not chunk.sequence.ended:  # before its branch forks
                self._scheduler.publish(chunk)
        self._unread = Unread(launched, plain, tokens)
        for sequence in going:
            sequence.features.clear()
            if launched.forward and sequence.beams:
                self._search(sequence, sequence.beams, launched.forward.logits[going[sequence]])

    def _settle(self) -> None:
        """Wait for a step that was sampled; share its pages, hand out its tokens."""
        if (unread := self._unread) is None:
            return
        self._measure(unread.launched)
        tokens = unread.tokens.read() if unread.tokens else []
        for chunk in unread.launched.schedule.chunks:
            self._scheduler.publish(chunk)
        for sequence, token in zip(unread.sequences, tokens, strict=True):
            sequence.branch.unread = False
            if not sequence.ended:
                self._accept(sequence, token)
        self._unread = None
        if self._budget.fitted():
            log.info("steps may be larger again", rows=self._budget.most_rows, tiles=self._budget.most_tiles)

    def _measure(self, launched: Launched) -> None:
        """Wait for the device, and keep what the step's parts took."""
        schedule, (began, encoded, ended) = launched.schedule, launched.marks
        self._expected_s = schedule.rows * self._budget.row_s + len(schedule.tiles) * self._budget.tile_s
        waiting = time.perf_counter()
        ended.wait()
        self._device_s += time.perf_counter() - waiting if self._pipelined else ended.since(began)
        self._progress()
        if schedule.tiles:
            self._seconds["vision"] += (seconds := encoded.since(began))
            self._budget.took_tiles(len(schedule.tiles), seconds)
        if schedule.chunks:
            seconds = ended.since(encoded)
            self._seconds["decode" if schedule.rows == len(schedule.chunks) else "prefill"] += seconds
            if schedule.rows >= 2 * len(schedule.chunks):  # else it says nothing about prompts
                self._budget.took_rows(schedule.rows, seconds)

    def _accept(self, sequence: Sequence, token: int) -> None:
        """Append a token, hand out its text, end what is complete."""
        if token < 0:
            self._end_sequence(sequence, NonFiniteLogits(NON_FINITE), forget=True)
            return
        sequence.enter("decode")
        sequence.count += 1
        stopped = token == self._end
        if not stopped:
            sequence.branch.tokens.append(token)
            sequence.handle.delta(sequence.text.push(token), sequence.count)
            stopped = sequence.text.stopped
        if stopped or sequence.count >= sequence.limit:
            self._finish(sequence, stopped)

    def _search(self, sequence: Sequence, beams: BeamSearch, logits: Tensor) -> None:
        """One step of a beam search; an error ends this request alone."""
        try:
            if not logits.isfinite().all():
                raise NonFiniteLogits(NON_FINITE)
            self._advance(sequence, beams, logits)
        except Exception as error:
            self._end_sequence(sequence, translate(error), forget=True)

    def _advance(self, sequence: Sequence, beams: BeamSearch, logits: Tensor) -> None:
        """Go on with the best beams: their text comes at the end, in one piece, because beams change until then."""
        sequence.enter("decode")
        sequence.count += 1
        rows = [sequence.row(branch) for branch in sequence.branches]
        scores = sampler.adjust(logits.float().log_softmax(dim=-1), rows)
        if not beams.sampling.greedy:
            warped, ids = sampler.warp(scores, rows)
            scores = torch.full_like(scores, -torch.inf).scatter(1, ids, warped.float())
        continuations = beams.advance(scores, [sequence.answer(branch) for branch in sequence.branches])
        if continuations:
            self._fork(sequence, continuations)
            return
        sequence.count = 0
        for token in beams.best:
            sequence.count += 1
            if token == self._end:
                break
            sequence.handle.delta(sequence.text.push(token), sequence.count)
            if sequence.text.stopped:
                break
        self._finish(sequence, token == self._end or sequence.text.stopped)

    def _fork(self, sequence: Sequence, continuations: list[Continuation]) -> None:
        """Replace the branches by their continuations, which share all full pages."""
        forks: list[Branch] = []
        try:
            for continuation in continuations:
                branch, copied = self._scheduler.fork(sequence.branches[continuation.parent], continuation.token)
                forks.append(branch)
                if copied:
                    self._runner.copy_page(*copied)
        except OutOfPages:
            for branch in forks:
                self._scheduler.release(branch)
            self._scheduler.preempt(sequence)
            return
        for branch in sequence.branches:
            self._scheduler.release(branch)
        sequence.branches = forks

    def _finish(self, sequence: Sequence, stopped: bool) -> None:
        sequence.handle.delta(sequence.text.finish(), sequence.count)
        done = sequence.handle.done(
            sequence.text.text,
            stopped=stopped,
            completion_tokens=sequence.count,
            cached_tokens=sequence.cached_tokens,
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
