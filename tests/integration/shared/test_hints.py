"""Every free slot finds a hint, in every order of events; and the scripts ask for hints as the model does."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import redis

from shared.ids import new_id
from shared.jobs import Job, State
from shared.store import transitions
from shared.store.client import Store
from shared.store.command import TransitionResult
from shared.store.transitions import MANY_READY
from tests.integration.shared.model import hints
from tests.integration.shared.model.hints import Rules
from tests.waiting import eventually

LONG = 600.0


@pytest.fixture
def store(valkey_url: str) -> Iterator[Store]:
    with redis.Redis.from_url(valkey_url, decode_responses=True) as client:
        yield Store(client, f"{new_id('test')}:")


def a_job(**changes: Any) -> Job:
    job = Job(id=new_id("job"), tenant="t", model="m", start_within=LONG, run_within=LONG, retain=LONG)
    return replace(job, **changes)


def hinted(store: Store, *jobs: Job, period: float = LONG) -> tuple[bool, ...]:
    call = transitions.submit(jobs[0].tenant, jobs, max_queued=10**6, grace=0, hint_period=period)
    return store.run(call).hinted


@pytest.mark.parametrize("many", [1, 2, 4])
def test_no_order_of_events_leaves_a_free_slot_without_a_hint_while_a_job_is_ready(many: int) -> None:
    states = hints.reachable(7, Rules(many))
    assert len(states) > 1000
    assert not [state for state in states if state.starving or state.stalled]


def test_the_search_finds_what_starves_when_a_slot_is_woken_twice() -> None:
    assert any(state.starving for state in hints.reachable(7, Rules(wake_once=False)))


@pytest.mark.parametrize("many", [1, 2, 4])
def test_no_more_hints_wait_than_jobs_were_submitted(many: int) -> None:
    assert all(state.hints <= 7 - state.to_come for state in hints.reachable(7, Rules(many)))


@pytest.mark.parametrize("many", [1, 2])
def test_the_search_finds_what_starves_when_a_hint_is_not_passed_on(many: int) -> None:
    assert any(state.starving for state in hints.reachable(7, Rules(many, pass_on=False)))


@pytest.mark.parametrize("many", [1, 2])
def test_the_search_finds_what_stalls_when_a_slot_keeps_its_hint(many: int) -> None:
    rules = Rules(many, pass_on=False, hand_on=False)
    assert any(state.stalled for state in hints.reachable(7, rules))


@pytest.mark.parametrize("seed", range(5))
def test_submissions_and_claims_ask_for_hints_as_the_model_does(store: Store, seed: int) -> None:
    rng, ready, running = random.Random(seed), MANY_READY + 1, list[Job]()
    hinted(store, *[a_job() for _ in range(ready)])  # the period begins
    for _ in range(150):
        step = rng.choice(["submit", "submit", "claim", "finish"])
        if step == "submit":
            job = a_job(tenant=rng.choice(["t", "u"]), priority=rng.randrange(3))
            assert hinted(store, job) == (ready < MANY_READY,)
            ready += 1
        elif step == "claim":
            claimed = store.run(transitions.claim("m", "w", LONG))
            ready -= bool(ready)
            running += [claimed.value] if claimed.value else []
            assert claimed.more == (ready >= MANY_READY)
        elif running:
            job = running.pop()
            assert store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, {})).more == bool(ready)


def test_a_batch_asks_for_as_many_hints_as_are_many_and_one_for_the_period(store: Store) -> None:
    jobs = [a_job() for _ in range(MANY_READY + 3)] + [a_job(model="other")]
    assert hinted(store, *jobs) == (*[True] * (MANY_READY + 1), *[False] * 2, True)


def test_a_hint_is_asked_for_every_period_although_many_jobs_wait(store: Store) -> None:
    hinted(store, *[a_job() for _ in range(MANY_READY)])
    assert [hinted(store, a_job()) for _ in range(3)] == [(True,), (False,), (False,)]  # the first of a period
    assert [hinted(store, a_job(), period=0) for _ in range(2)] == [(True,), (True,)]


def test_a_repeated_submission_asks_for_its_hint_again(store: Store) -> None:
    jobs = [a_job() for _ in range(MANY_READY + 2)]
    hinted(store, *jobs)
    assert hinted(store, jobs[-1]) == (True,)


def ended(store: Store, slot: str, wait_s: float = LONG) -> bool:
    """Claim a job and end it in `slot`; tell whether another one is ready."""
    job = store.run(transitions.claim("m", "w", LONG)).value
    assert job is not None
    return store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, {}, slot, wait_s)).more


def after_wait(store: Store, slot: str, seconds: float = 5) -> TransitionResult[Job | None]:
    """Claim once `slot` is woken, or after `seconds`."""
    claim = transitions.claim("m", "w", LONG, slot=slot, wait_s=LONG, waited=True)
    return store.run_when_woken(claim, slot, seconds)


def test_a_slot_that_waits_is_woken_once_and_then_a_hint_is_asked_for(store: Store) -> None:
    hinted(store, a_job())
    assert not ended(store, "w/1")
    assert [hinted(store, a_job(model="other")), hinted(store, a_job()), hinted(store, a_job())] == [
        (True,),
        (False,),
        (True,),
    ]
    assert store.client.llen(f"{store.prefix}wake:w/1") == 1
    assert after_wait(store, "w/1").value


def test_a_batch_wakes_as_many_slots_as_wait(store: Store) -> None:
    hinted(store, *[a_job() for _ in range(2)])
    assert ended(store, "w/1")  # another job is ready, so that this slot claims it and does not wait
    assert not ended(store, "w/2")
    hinted(store, a_job())
    assert not ended(store, "w/1")
    hinted(store, a_job())
    assert not ended(store, "w/2")
    assert hinted(store, *[a_job() for _ in range(3)]) == (False, True, True)


def test_a_slot_that_waited_long_enough_is_not_woken(store: Store) -> None:
    hinted(store, a_job())
    assert not ended(store, "w/1", 0)
    assert hinted(store, a_job()) == (True,)


def test_a_submission_makes_the_claim_of_the_slot_that_it_wakes(store: Store) -> None:
    hinted(store, a_job())
    ended(store, "w/1")
    with ThreadPoolExecutor(1) as threads:
        claimed = threads.submit(after_wait, store, "w/1", LONG)
        eventually(lambda: store.client.info("clients")["blocked_clients"])
        job = a_job()
        hinted(store, job)
        state = store.client.hget(f"{store.prefix}job:{job.id}", "state")  # the reply to the submission was all it took
        value = claimed.result(10).value
    assert (state, value and value.id) == ("running", job.id)


@pytest.mark.parametrize("woken", [True, False])
def test_a_slot_that_finds_no_job_waits_again_only_if_it_was_woken(store: Store, woken: bool) -> None:
    hinted(store, a_job())
    ended(store, "w/1")
    if woken:
        hinted(store, a_job())
        store.run(transitions.claim("m", "another", LONG))
    after = after_wait(store, "w/1", 0.01)
    assert (after.value, after.waits) == (None, woken)
    assert hinted(store, a_job()) == (not woken,)


def test_a_claim_after_a_wait_runs_on_a_server_that_lost_the_scripts(store: Store) -> None:
    hinted(store, a_job())
    ended(store, "w/1")
    hinted(store, a_job())
    store.client.script_flush()
    assert after_wait(store, "w/1").value


def test_a_slot_that_stops_waiting_learns_whether_it_was_woken(store: Store) -> None:
    hinted(store, a_job())
    ended(store, "w/1")
    assert not store.run(transitions.stop_waiting("m", "w/1"))
    assert hinted(store, a_job()) == (True,)
    ended(store, "w/1")
    hinted(store, a_job())
    assert store.run(transitions.stop_waiting("m", "w/1"))
    assert not store.client.exists(f"{store.prefix}wake:w/1")
