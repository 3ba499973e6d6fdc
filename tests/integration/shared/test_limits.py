"""Limits of tenants and the estimate of a wait, over the double and a real Valkey."""

from typing import Any

import pytest

from shared.jobs import Job, State
from shared.limits import NO_LIMITS, LimitOverride, LimitState, TenantLimits
from shared.records import JobImage, TokenUsage
from shared.store import limits, transitions
from shared.store.client import Store
from tests.integration.shared.test_transitions import a_job, store

__all__ = ["store"]

IMAGE = JobImage(media_type="image/png", bytes=400, width=1, height=1, sha256="0", grid=[1, 1], tiles=1)


def submit(store: Store, *jobs: Job, **more: Any) -> transitions.SubmitResult:
    allowed = TenantLimits(**more)
    return store.run(transitions.submit(jobs[0].tenant, jobs, max_queued=1000, grace=0, limits=allowed))


def end_one(store: Store, tokens: int) -> None:
    job = store.run(transitions.claim("m", "w", 30)).value
    assert job is not None
    usage = TokenUsage(completion_tokens=tokens)
    assert store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, {"usage": usage})).value


def test_requests_of_a_minute_may_come_at_once_and_then_evenly(store: Store) -> None:
    allowed = TenantLimits(requests=3)
    replies = [store.run(limits.admit("acme", allowed.requests, NO_LIMITS)) for _ in range(4)]
    assert [admitted for admitted, _ in replies] == [True, True, True, False]
    assert [states[0].remaining for _, states in replies] == [2, 1, 0, 0]
    (refused,) = replies[-1][1]
    assert refused.name == "requests"
    assert 0 < refused.reset_s <= 20
    assert store.run(limits.admit("beta", allowed.requests, NO_LIMITS))[0]


def test_a_refused_request_costs_nothing(store: Store) -> None:
    allowed = TenantLimits(requests=1)
    waits = [store.run(limits.admit("acme", allowed.requests, NO_LIMITS))[1][0].reset_s for _ in range(20)]
    assert max(waits[1:]) <= 60


def test_queued_jobs_of_a_tenant_are_limited_and_others_are_not_concerned(store: Store) -> None:
    assert submit(store, a_job(), a_job(), queued=2).outcome == "accepted"
    refused = submit(store, a_job(), queued=2)
    assert refused.outcome == "quota_exceeded"
    assert refused.limit is not None
    assert (refused.limit.name, refused.limit.limit, refused.limit.remaining) == ("queued", 2, 0)
    assert submit(store, a_job(tenant="beta"), queued=2).outcome == "accepted"
    end_one(store, 1)
    assert submit(store, a_job(), queued=2).outcome == "accepted"


def test_a_batch_fits_as_a_whole_or_not_at_all(store: Store) -> None:
    assert submit(store, a_job(), a_job(), a_job(), queued=2).outcome == "quota_exceeded"
    assert submit(store, a_job(), a_job(), queued=2).outcome == "accepted"


def test_bytes_of_a_day_are_limited(store: Store) -> None:
    assert submit(store, a_job(images=[IMAGE, IMAGE]), bytes=1000).outcome == "accepted"
    refused = submit(store, a_job(images=[IMAGE]), bytes=1000)
    assert (refused.outcome, refused.limit and refused.limit.name) == ("quota_exceeded", "bytes")
    assert refused.limit is not None
    assert refused.limit.remaining == 200
    assert 0 < refused.limit.reset_s <= 86_400
    assert submit(store, a_job(), bytes=1000).outcome == "accepted"
    assert store.run(limits.get(a_job().tenant))[1] == {"queued": 2, "bytes": 800, "tokens": 0}


def test_tokens_of_a_day_are_counted_as_jobs_end_and_limited(store: Store) -> None:
    assert submit(store, a_job(), a_job(), tokens=100).outcome == "accepted"
    end_one(store, 60)
    assert submit(store, a_job(), tokens=100).outcome == "accepted"
    end_one(store, 60)
    refused = submit(store, a_job(), tokens=100)
    assert (refused.outcome, refused.limit and refused.limit.name) == ("quota_exceeded", "tokens")
    assert store.run(limits.get(a_job().tenant))[1]["tokens"] == 120


def test_tokens_of_a_job_that_fails_count_too(store: Store) -> None:
    submit(store, a_job())
    job = store.run(transitions.claim("m", "w", 30)).value
    assert job is not None
    store.run(transitions.heartbeat([(job.id, job.attempt, {"completion_tokens": 70})], 30))
    store.run(transitions.finish(job.id, job.attempt, State.FAILED, {}))
    assert store.run(limits.get(job.tenant))[1]["tokens"] == 70


def test_repeating_an_accepted_submission_counts_nothing_and_is_not_refused(store: Store) -> None:
    job = a_job(images=[IMAGE])
    assert submit(store, job, queued=1, bytes=400).outcome == "accepted"
    assert submit(store, job, queued=1, bytes=400).outcome == "accepted"
    assert store.run(limits.get(job.tenant))[1] == {"queued": 1, "bytes": 400, "tokens": 0}


@pytest.mark.parametrize("used", [{"queued": 1}, {"bytes": 400}])
def test_a_submission_is_refused_at_the_door_where_no_job_would_be_taken(store: Store, used: dict[str, int]) -> None:
    allowed = TenantLimits(**used)
    tenant = a_job().tenant
    assert store.run(limits.admit(tenant, allowed.requests, allowed)) == (True, [])
    submit(store, a_job(images=[IMAGE]))
    admitted, (state,) = store.run(limits.admit(tenant, allowed.requests, allowed))
    assert (admitted, state.name) == (False, next(iter(used)))
    assert store.run(limits.admit(tenant, allowed.requests, NO_LIMITS)) == (True, [])


def test_an_override_is_kept_until_it_is_emptied(store: Store) -> None:
    store.run(limits.put("acme", LimitOverride(requests=5, tokens=0)))
    override, _ = store.run(limits.get("acme"))
    assert TenantLimits(requests=1, queued=2, tokens=3).overridden(override) == TenantLimits(5, 2, 0, 0)
    store.run(limits.put("acme", LimitOverride()))
    assert store.run(limits.get("acme"))[0] is None


def test_the_wait_for_a_full_queue_is_what_the_workers_need_for_the_excess(store: Store) -> None:
    def refused() -> float:
        jobs = [a_job() for _ in range(8)]
        return store.run(transitions.submit(jobs[0].tenant, jobs, max_queued=1, grace=0)).retry_after

    now = float(store.client.time()[0])
    assert refused() == 5  # nothing is known yet
    # 20 claims in the last 20 seconds: one a second, and 7 jobs have to go first.
    store.client.hset(f"{store.prefix}moves", "running", 20)
    store.client.hset(f"{store.prefix}drain", mapping={"at": now, "claims": 20, "since": now - 20, "from": 0})
    assert 7 <= refused() <= 11
    store.client.hset(f"{store.prefix}drain", mapping={"at": now, "claims": 20, "since": now - 20, "from": 20})
    assert refused() == 60  # no worker claims anything


def test_states_that_are_parsed_never_tell_of_less_than_nothing() -> None:
    assert limits.limit_state(["bytes", 10, -5, "1.5"]) == LimitState("bytes", 10, 0, 1.5)
