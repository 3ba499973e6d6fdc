"""The engine's iteration: schedule, run, postprocess. Runs in the one thread that owns the device."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

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
from workers.vision.engine.detokenize import IncrementalDetokenizer
from workers.vision.engine.feature_cache import FeatureCache
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.model_runner import ModelRunner
from workers.vision.engine.page_pool import OutOfPages, PagePool
from workers.vision.engine.scheduler import Limits, Schedule, Scheduler, TileWork
from workers.vision.engine.sequence import Branch, Sequence, tile_spans
from workers.vision.engine.step_allowance import HANG_FACTOR
from workers.vision.engine.step_budget import StepBudget
from workers.vision.engine.torch_errors import translate
from workers.vision.model.fast_path import FastPath
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.prompts import TEMPLATES

log = structlog.get_logger(__name__)
Outcome = Done | Exception


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


class EngineCore:
    """All but `sequence` is for the engine's thread only."""

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
            features, logits = self._run(schedule)
            self._postprocess(schedule, features, logits)
            if self._budget.fitted():
                log.info("steps may be larger again", rows=self._budget.most_rows, tiles=self._budget.most_tiles)
        except Exception as error:
            self._recover(schedule, translate(error))
        self._counts["steps"] += 1
        self._seconds["host"] += time.perf_counter() - began  # of all parts together; `stats` takes the others off

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in."""
        self._scheduler.add(sequence)

    def drop_unwanted(self, everything: bool = False) -> None:
        """End the cancelled sequences, or all of them, and those whose deadline has passed."""
        for sequence in [*self._scheduler.running, *self._scheduler.waiting]:
            if everything or sequence.handle.cancelled:
                self._end_sequence(sequence, Cancelled())
            elif sequence.handle.late:
                self._end_sequence(sequence, DeadlineExceeded())

    def sequence(self, handle: RequestHandle, arrival: int) -> Sequence:
        """Prepare a request, in its caller's thread. Raises `ContextExceeded`."""
        request = handle.request
        capacity = min(self._config.context, self._pool.size * PAGE_TOKENS // request.sampling.num_beams - 1)
        room = capacity - len(request.prompt.ids)
        if room < 1:
            holder = "context of the model" if capacity == self._config.context else "key-value cache"
            raise ContextExceeded(
                f"the prompt has {len(request.prompt.ids)} tokens and the {holder} holds {capacity}; send fewer tiles"
            )
        tiles = tile_spans(request, self._config.tokens_per_tile)
        exact = request.token_mask is not None
        stops = () if exact else (self._stop, *request.sampling.stop)  # a grammar's answer ends by its token alone
        text = IncrementalDetokenizer(self._tokenizer, stops, exact)
        limit = min(room, request.sampling.max_new_tokens)
        sequence = Sequence(handle, tiles, text, limit, arrival)
        if request.sampling.num_beams > 1:
            sequence.beams = BeamSearch(request.sampling, self._end, limit)
        return sequence

    def stats(self) -> EngineStats:
        """The figures of this moment; what waits outside is not in them."""
        parts = dict(self._seconds)
        parts["host"] = max(0.0, parts["host"] - sum(seconds for part, seconds in parts.items() if part != "host"))
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
            computed=dict(self._runner.computed),
            step_s=parts,
            fast_paths={path.name: path.state for path in self._paths},
        )

    def _run(self, schedule: Schedule) -> tuple[list[Tensor], Tensor | None]:
        """The features of the schedule's tiles, and the logits of the chunks that reach their last token."""
        features: list[Tensor] = []
        for work in schedule.tiles:
            work.sequence.enter("vision")
        began = time.perf_counter()
        if schedule.tiles:
            self._expected_s = len(schedule.tiles) * self._budget.tile_s
            features = self._runner.encode(list(schedule.tiles))
            self._budget.took_tiles(len(schedule.tiles), self._took("vision", began))
        for chunk in schedule.chunks:
            chunk.sequence.enter("prefill")
        if not schedule.chunks:
            return features, None
        began, rows = time.perf_counter(), sum(chunk.rows for chunk in schedule.chunks)
        self._expected_s = rows * self._budget.row_s
        logits = self._runner.forward(list(schedule.chunks))
        prompts = any(chunk.rows > 1 for chunk in schedule.chunks)
        seconds = self._took("prefill" if prompts else "decode", began)
        if rows >= 2 * len(schedule.chunks):  # else it says nothing about prompts
            self._budget.took_rows(rows, seconds)
        return features, logits

    def _took(self, part: str, began: float) -> float:
        """Seconds since `began`, counted for a part of the step that is over."""
        seconds = time.perf_counter() - began
        self._seconds[part] += seconds
        self._progress()
        return seconds

    def _postprocess(self, schedule: Schedule, features: list[Tensor], logits: Tensor | None) -> None:
        self._keep(list(schedule.tiles), features)
        complete: dict[Sequence, list[Branch]] = {}
        for chunk in schedule.chunks:
            self._scheduler.computed(chunk)
            if not chunk.branch.missing:
                complete.setdefault(chunk.sequence, []).append(chunk.branch)
        if logits is None or not complete:
            return
        places = {id(branch): place for place, branch in enumerate(chain.from_iterable(complete.values()))}
        fine = sampler.finite(logits)
        plain: list[tuple[int, Sequence]] = []
        for sequence, branches in complete.items():
            at = [places[id(branch)] for branch in branches]
            sequence.features.clear()
            if not all(fine[place] for place in at):
                text = "the model computed NaN or infinity for this request"
                self._end_sequence(sequence, NonFiniteLogits(text), forget=True)
            elif sequence.beams:
                self._advance(sequence, sequence.beams, logits[at])
            else:
                plain.append((at[0], sequence))
        if plain:
            rows = [sequence.row(sequence.branch) for _, sequence in plain]
            tokens = sampler.sample(logits[[place for place, _ in plain]], rows)
            for (_, sequence), token in zip(plain, tokens, strict=True):
                self._accept(sequence, token)

    def _keep(self, tiles: list[TileWork], features: list[Tensor]) -> None:
        """Give new features to the sequence that asked and to the cache, where equal tiles of others find them."""
        for work, found in zip(tiles, features, strict=True):
            work.sequence.features[work.tile] = found
            self._features.put(work.key, found)

    def _accept(self, sequence: Sequence, token: int) -> None:
        """Append a token, hand out its text, end what is complete."""
        sequence.enter("decode")
        sequence.count += 1
        stopped = token == self._end
        if not stopped:
            sequence.branch.tokens.append(token)
            sequence.handle.delta(sequence.text.push(token), sequence.count)
            stopped = sequence.text.stopped
        if stopped or sequence.count >= sequence.limit:
            self._finish(sequence, stopped)

    def _advance(self, sequence: Sequence, beams: BeamSearch, logits: Tensor) -> None:
        """One step of a beam search: its text comes at the end, in one piece, because beams change until then."""
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
        done = Done(
            text=sequence.text.text,
            finish_reason="stop" if stopped else "length",
            prompt_tokens=sequence.prompt_length,
            image_tokens=sequence.request.prompt.image_tokens,
            cached_tokens=sequence.cached_tokens,
            completion_tokens=sequence.count,
            timings=sequence.handle.timer.stop(),
        )
        self._end_sequence(sequence, done)

    def _end_sequence(self, sequence: Sequence, outcome: Outcome, *, forget: bool = False) -> None:
        self._scheduler.remove(sequence, forget=forget)
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
        if isinstance(error, OutOfMemory):
            self._features.clear()
            if self._budget.halve():
                log.warning("no memory for a step, the next ones are half as large", error=str(error))
                return
        involved = schedule.sequences
        failing = involved[-1:] if isinstance(error, OutOfMemory) else involved
        log.error("a step failed", requests=[sequence.request.id for sequence in failing], error=repr(error))
        for sequence in failing:
            self._end_sequence(sequence, error, forget=True)
