"""What a step computes, decided without a device."""

import itertools
import time
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from workers.vision.engine import scheduler as scheduler_module
from workers.vision.engine.base import EngineRequest, Sampling
from workers.vision.engine.beam_search import Continuation
from workers.vision.engine.feature_cache import FeatureCache
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.page_pool import PagePool
from workers.vision.engine.page_tables import PageTables
from workers.vision.engine.schedule import Schedule
from workers.vision.engine.scheduler import Scheduler
from workers.vision.engine.sequence import Sequence
from workers.vision.engine.step_budget import StepBudget
from workers.vision.engine.tile_spans import tile_spans
from workers.vision.prompts import ImageSpan, Prompt

TILE_TOKENS = 32
FEATURES = torch.zeros(TILE_TOKENS, 4)
arrivals = itertools.count()


def sequence(text: int = 40, tiles: int = 0, image: int = 0, first: int = 100, **more: Any) -> Sequence:
    """`tiles` tiles of an image, then `text` tokens counted up from `first`."""
    ids = [7] * (tiles * TILE_TOKENS) + list(range(first, first + text))
    spans = (ImageSpan(0, tiles * TILE_TOKENS, tiles),) if tiles else ()
    pixels = np.random.default_rng(image).integers(0, 256, (tiles, 2, 2, 3), np.uint8)
    request = EngineRequest("job", Prompt(ids, spans, ""), pixels, Sampling(), **more)
    return Sequence(RequestHandle(request), tile_spans(request, TILE_TOKENS), Mock(), 100, next(arrivals))


def scheduler(pages: int = 100, rows: int = 64, tiles: int = 2, sequences: int = 8) -> Scheduler:
    budget = StepBudget(rows, tiles, pause_s=1.0, longest_s=1.0, row_s=1e-9, tile_s=1e-9)
    return Scheduler(PageTables(PagePool(pages)), FeatureCache(1 << 20), budget, sequences)


def run(scheduler: Scheduler) -> Schedule:
    """One step over a model that says token 1 for ever."""
    schedule = scheduler.schedule()
    for work in schedule.tiles:
        work.sequence.features[work.tile] = FEATURES
        scheduler._features.put(work.key, FEATURES)
    for chunk in schedule.chunks:
        chunk.branch.computed = chunk.stop
        scheduler.tables.publish(chunk)
        if not chunk.branch.missing:
            chunk.branch.tokens.append(1)
            chunk.sequence.count += 1
    return schedule


def rows(schedule: Schedule) -> list[int]:
    return [chunk.rows for chunk in schedule.chunks]


def test_a_prompt_comes_in_chunks_and_then_a_row_a_step() -> None:
    chosen = scheduler(rows=16)
    chosen.add(sequence(text=40))
    assert [rows(run(chosen)) for _ in range(5)] == [[16], [16], [8], [1], [1]]


def test_running_answers_are_in_every_step() -> None:
    chosen = scheduler(rows=16)
    chosen.add(sequence(text=10))
    run(chosen)
    chosen.add(sequence(text=50, first=500))
    assert [rows(run(chosen)) for _ in range(4)] == [[1, 16], [1, 16], [1, 16], [1, 2]]


def test_a_long_prompt_leaves_half_of_the_rows_to_those_behind_it() -> None:
    chosen = scheduler(rows=32)
    chosen.add(sequence(text=900, first=1000))
    chosen.add(sequence(text=20, first=500))
    assert [rows(run(chosen)) for _ in range(3)] == [[16, 16], [28, 4], [1, 32]]


def test_small_newcomers_are_not_held_up_by_a_prefill_of_40_tiles() -> None:
    chosen = scheduler(rows=32, tiles=1, pages=200)
    chosen.add(sequence(tiles=41, image=1))
    run(chosen)
    small = [sequence(tiles=1, image=image, first=500 + 100 * image) for image in (2, 3)]
    for newcomer in small:
        chosen.add(newcomer)
    steps = [run(chosen) for _ in range(12)]
    assert all(newcomer.count for newcomer in small)
    large = chosen.running[0]
    assert sum(work.sequence is large for step in steps for work in step.tiles) >= 10


def test_answers_are_in_every_step_of_a_prefill_of_40_tiles() -> None:
    chosen = scheduler(rows=32, tiles=2, pages=200)
    answering = sequence(text=10)
    chosen.add(answering)
    run(chosen)
    chosen.add(sequence(tiles=41, image=1, first=500))
    for _ in range(60):
        said = answering.count
        run(chosen)
        assert answering.count == said + 1


def test_newcomers_of_a_lower_priority_get_what_the_urgent_leaves() -> None:
    chosen = scheduler(rows=32, tiles=2)
    urgent, low = sequence(tiles=4, image=1, priority=0), sequence(tiles=1, image=2, priority=2)
    chosen.add(urgent)
    chosen.add(low)
    encoded = [[work.sequence for work in run(chosen).tiles] for _ in range(3)]
    assert encoded == [[urgent, urgent], [urgent, urgent], [low]]


def test_rows_go_to_the_first_and_then_to_who_wants_least() -> None:
    chosen = scheduler(rows=64, pages=200)
    for text, first in ((900, 1000), (800, 5000), (20, 9000)):
        chosen.add(sequence(text=text, first=first))
    assert rows(run(chosen)) == [32, 12, 20]


def measured(deadline_s: float, **more: Any) -> tuple[Scheduler, Sequence]:
    """A scheduler of a device that takes 1 s for a tile and for a row, and a request whose deadline is so far away."""
    chosen = scheduler()
    chosen._budget.took_tiles(1, 1.0)
    chosen._budget.took_rows(1, 1.0)
    asked = sequence(deadline=time.monotonic() + deadline_s, **more)
    chosen.add(asked)
    return chosen, asked


def test_a_request_whose_deadline_is_out_of_reach_is_not_started() -> None:
    chosen, asked = measured(30, text=100)
    assert not run(chosen).sequences
    assert chosen.take_hopeless() == [asked]
    assert (chosen.waiting, chosen.running, chosen.take_hopeless(), chosen.tables._pool.used) == ([], [], [], 0)


def test_a_deadline_that_may_be_met_is_tried() -> None:
    chosen, asked = measured(60, text=100)
    run(chosen)
    assert chosen.running == [asked]


def test_what_is_cached_counts_as_done_for_a_deadline() -> None:
    chosen = scheduler(rows=512)
    before = sequence(tiles=2, image=1)
    chosen.add(before)
    while not before.count:
        run(chosen)
    chosen._budget.took_tiles(1, 1.0)
    chosen._budget.took_rows(1, 1.0)
    asked = sequence(tiles=2, image=1, deadline=time.monotonic() + 10)
    chosen.add(asked)
    run(chosen)
    assert asked in chosen.running


def test_a_speed_that_was_never_measured_rules_no_deadline_out() -> None:
    chosen = scheduler()
    chosen._budget.row_s = 1000.0
    asked = sequence(deadline=time.monotonic() + 30)
    chosen.add(asked)
    run(chosen)
    assert chosen.running == [asked]


def test_tiles_of_several_sequences_share_a_step_and_prefill_waits_for_them() -> None:
    chosen = scheduler(tiles=2)
    chosen.add(sequence(tiles=1, image=1))
    chosen.add(sequence(tiles=2, image=2))
    first, second, third = run(chosen), run(chosen), run(chosen)
    assert [(len(step.tiles), len(step.chunks)) for step in (first, second, third)] == [(2, 0), (1, 1), (0, 2)]


def test_equal_tiles_are_encoded_once() -> None:
    chosen = scheduler(tiles=8)
    for _ in range(3):
        chosen.add(sequence(tiles=2, image=1))
    assert len(run(chosen).tiles) == 2
    assert not run(chosen).tiles


def test_equal_tiles_of_other_salts_are_encoded_again() -> None:
    chosen = scheduler(tiles=8)
    for salt in ("acme", "other"):
        chosen.add(sequence(tiles=2, image=1, cache_salt=salt))
    assert len(run(chosen).tiles) == 4


def test_features_that_wait_for_their_prefill_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "MAX_HELD_TILES", 3)
    chosen = scheduler(tiles=8)
    chosen.add(sequence(tiles=4, image=1))  # the first in order may have more
    chosen.add(sequence(tiles=2, image=2))
    assert [work.sequence.tiles.keys[0] for work in run(chosen).tiles] == [chosen.running[0].tiles.keys[0]] * 4


def test_equal_prompts_at_once_are_computed_once() -> None:
    chosen = scheduler(rows=64, pages=40)
    early, late = sequence(text=100), sequence(text=100)
    chosen.add(early)
    chosen.add(late)
    run(chosen)
    assert (early.branch.computed, late.branch.computed) == (64, 0)
    run(chosen)
    assert (early.branch.computed, late.branch.computed) == (100, 64)
    assert rows(run(chosen)) == [1, 4]
    assert late.cached_tokens == 96
    assert late.branch.pages[:6] == early.branch.pages[:6]


def test_a_prompt_that_parts_from_its_neighbour_is_not_held_up() -> None:
    chosen = scheduler(rows=64, pages=40)
    for first in (100, 101):
        chosen.add(sequence(text=100, first=first))
    assert rows(run(chosen)) == [32, 32]


def test_admission_waits_for_pages() -> None:
    chosen = scheduler(pages=5)
    chosen.add(sequence(text=40))
    chosen.add(sequence(text=40, first=500))
    run(chosen)
    assert (len(chosen.running), len(chosen.waiting)) == (1, 1)
    chosen.remove(chosen.running[0])
    run(chosen)
    assert (len(chosen.running), len(chosen.waiting)) == (1, 0)


def test_the_last_in_order_begins_again_when_no_page_is_left() -> None:
    chosen = scheduler(pages=7)
    first, second = sequence(text=40), sequence(text=40, first=500)
    chosen.add(first)
    chosen.add(second)
    while not chosen.preemptions:
        run(chosen)
    assert (chosen.running, chosen.waiting) == ([first], [second])
    assert second.branch.tokens[40:]  # what it said is kept
    assert not second.branch.pages
    chosen.remove(first)
    run(chosen)
    assert second.branch.computed > 0


def test_the_urgent_is_admitted_before_the_older() -> None:
    chosen = scheduler(sequences=1)
    low, high = sequence(priority=2), sequence(first=500, priority=0)
    chosen.add(low)
    chosen.add(high)
    run(chosen)
    assert chosen.running == [high]


def test_a_forked_branch_shares_full_pages_and_copies_the_last() -> None:
    chosen = scheduler()
    parent = sequence(text=40)
    chosen.add(parent)
    run(chosen)
    before = parent.branch.pages
    copies = chosen.fork(parent, [Continuation(0, 5), Continuation(0, 6)])
    first, second = parent.branches
    assert first.pages[:2] == second.pages[:2] == before[:2]
    assert copies == [(before[2], first.pages[2]), (before[2], second.pages[2])]
    assert (first.tokens[-1], second.tokens[-1]) == (5, 6)
    assert chosen.tables._pool.used == 2 + 2
    chosen.remove(parent)
    assert chosen.tables._pool.used == 0


def test_a_sequence_without_pages_for_its_forks_begins_again() -> None:
    chosen = scheduler(pages=3)
    parent = sequence(text=40)
    chosen.add(parent)
    run(chosen)
    assert chosen.fork(parent, [Continuation(0, 5)]) == []
    assert (chosen.running, chosen.waiting, chosen.tables._pool.used) == ([], [parent], 0)


def test_digests_tell_images_texts_and_salts_apart_and_chain() -> None:
    base = sequence(tiles=1, image=1).digests(4)
    assert base == sequence(tiles=1, image=1).digests(4)
    assert not set(base) & set(sequence(tiles=1, image=2).digests(4))
    assert not set(base) & set(sequence(tiles=1, image=1, cache_salt="other").digests(4))
    other = sequence(tiles=1, image=1, first=101).digests(4)
    assert base[:2] == other[:2]
    assert not set(base[2:]) & set(other)
