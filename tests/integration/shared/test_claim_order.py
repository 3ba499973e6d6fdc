"""A claim prefers what its worker has cached, within bounds, and the script takes the job that its model takes."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace

import pytest

from shared.ids import new_id
from shared.jobs import Job
from shared.store import transitions
from shared.store.client import Store, memory_store
from shared.store.transitions import MAX_PASSES
from tests.integration.shared.model import order
from tests.integration.shared.model.order import Queue, Waiting

LONG = 1000.0
WINDOW = 4
KEYS = "abcde"


@pytest.fixture(autouse=True)
def passes_do_not_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `rewind` lets time pass, however slow this machine is."""
    monkeypatch.setattr(transitions, "MAX_PASSED_S", LONG)


def queued(store: Store, key: str, tenant: str = "acme", priority: int = 1) -> str:
    job = Job(
        new_id("job"), tenant, "m", priority=priority, start_within=LONG, run_within=LONG, retain=LONG, affinity=key
    )
    store.run(transitions.submit(tenant, [job], max_queued=10_000, grace=0))
    return job.id


def claim(store: Store, cached: Sequence[str] = (), window: int = WINDOW) -> Job | None:
    return store.run(transitions.claim("m", "w", LONG, cached, window)).value


def claimed(store: Store, *cached: str, window: int = WINDOW) -> str:
    job = claim(store, cached, window)
    return job.id if job else ""


def test_a_claim_takes_the_oldest_job_that_shares_a_prompt_with_the_worker() -> None:
    store = memory_store()
    first, second, third = queued(store, "a"), queued(store, "b c"), queued(store, "c")
    assert [claimed(store, "acme/c") for _ in range(3)] == [second, third, first]


def test_without_cached_prompts_or_with_a_window_of_one_jobs_go_by_age() -> None:
    store = memory_store()
    jobs = [queued(store, key) for key in "abcd"]
    assert [claimed(store), claimed(store, "acme/d", window=1)] == jobs[:2]
    assert store.client.hget(f"{store.prefix}job:{jobs[2]}", "passes") is None


def test_a_prompt_of_another_tenant_counts_only_where_tenants_share() -> None:
    store = memory_store()
    first, second, third = queued(store, "a"), queued(store, "b"), queued(store, "c")
    assert claimed(store, "other/b") == first
    assert claimed(store, "/c") == third
    assert claimed(store) == second


def test_a_job_that_shares_nothing_is_overtaken_no_more_than_so_often() -> None:
    store = memory_store()
    lonely = queued(store, "z")
    taken = []
    for _ in range(MAX_PASSES + 1):
        queued(store, "a")
        queued(store, "a")
        taken.append(claimed(store, "acme/a"))
    assert taken.index(lonely) == MAX_PASSES


def test_a_job_that_was_overtaken_long_ago_is_next() -> None:
    store = memory_store()
    lonely = queued(store, "z")
    for _ in range(3):
        queued(store, "a")
    assert claimed(store, "acme/a") != lonely
    rewind(store, lonely)
    assert claimed(store, "acme/a") == lonely


def test_a_claim_ends_the_count_of_passes() -> None:
    store = memory_store()
    lonely = queued(store, "z")
    queued(store, "a")
    claimed(store, "acme/a")
    assert claimed(store) == lonely
    assert store.client.hmget(f"{store.prefix}job:{lonely}", "passes", "passed") == [None, None]


def test_an_ended_job_keeps_nothing_of_it() -> None:
    store = memory_store()
    lonely = queued(store, "z")
    queued(store, "a")
    claimed(store, "acme/a")
    store.run(transitions.cancel("acme", lonely))
    assert store.client.hmget(f"{store.prefix}job:{lonely}", "affinity", "passes", "passed") == [None] * 3


def test_the_model_counts_as_the_scripts_do() -> None:
    assert order.MAX_PASSES == MAX_PASSES


@pytest.mark.parametrize("seed", range(6))
def test_a_walk_of_claims_is_a_walk_of_the_model_and_starves_nobody(seed: int) -> None:
    rng, store, model, age, overtaken = random.Random(seed), memory_store(), Queue(), list[Waiting](), Counter[str]()
    for _ in range(150):
        if rng.random() < 0.55:
            tenant, priority, key = rng.choice("st"), rng.choice((0, 1, 1, 1)), rng.choice(KEYS)
            job = Waiting(queued(store, key, tenant, priority), tenant, priority, key)
            model.submit(job)
            age.append(job)
            continue
        if passed := [job for job in model.jobs if job.passes and not job.late and rng.random() < 0.1]:
            rewind(store, passed[0].id)
            model.jobs[model.jobs.index(passed[0])] = replace(passed[0], late=True)
        keys = set(rng.sample(KEYS, 2))
        without = deepcopy(model).claim(frozenset(), WINDOW)
        expected = model.claim(keys, WINDOW)
        found = claimed(store, *(f"{tenant}/{key}" for tenant in "st" for key in keys))
        assert found == (expected.id if expected else "")
        if expected and without:
            line = (expected.tenant, expected.priority)
            assert line == (without.tenant, without.priority)
            older = age[: next(place for place, job in enumerate(age) if job.id == expected.id)]
            overtaken.update(job.id for job in older if (job.tenant, job.priority) == line)
            age = [job for job in age if job.id != expected.id]
    assert max(overtaken.values()) <= MAX_PASSES
    assert overtaken.total() > 10


def rewind(store: Store, job: str) -> None:
    """Let the first pass of `job` be so long ago that there is no other."""
    store.client.hset(f"{store.prefix}job:{job}", "passed", str(time.time() - LONG - 1))
