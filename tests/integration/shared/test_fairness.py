"""Fair queueing on a real Valkey: however many jobs one tenant has queued, another's first does not wait for them."""

from contextlib import suppress

import pytest

from services.intake.principal import Principal, PrincipalLimits
from services.intake.schemas.requests import JobRequest
from services.intake.submission.model import Submission
from services.intake.submission.priority import capped
from shared.errors import InvalidField
from shared.ids import new_id
from shared.jobs import PRIORITIES, Job, Priority
from shared.limits import NO_LIMITS
from shared.store import transitions
from shared.store.client import Store
from tests.integration.shared.test_transitions import a_job, store

__all__ = ["store"]
BACKLOG, PER_CALL = 10_000, 1000


def claimed(store: Store) -> Job:
    job = store.run(transitions.claim("m", "w", 60)).value
    assert job is not None
    return job


def submit(store: Store, *jobs: Job) -> None:
    store.run(transitions.submit(jobs[0].tenant, jobs, max_queued=10**6, grace=0))


def highest_priority(tenant: str, most: Priority) -> int:
    """The highest that intake lets a key have whose `max_priority` is `most`."""
    key = Principal(tenant, PrincipalLimits(BACKLOG, NO_LIMITS, most))
    for priority in PRIORITIES:
        with suppress(InvalidField):
            asked = capped(key, Submission(JobRequest(prompt="?", priority=priority)))
            return PRIORITIES.index(asked.question.priority)
    raise AssertionError("no priority is allowed")


@pytest.mark.parametrize("store", ["valkey"], indirect=True)
def test_ten_thousand_jobs_at_a_keys_highest_priority_delay_anothers_first_by_no_more_than_those_in_flight(
    store: Store,
) -> None:
    priority = highest_priority("many", "normal")
    for _ in range(BACKLOG // PER_CALL):
        submit(store, *(a_job(tenant="many", priority=priority) for _ in range(PER_CALL)))
    for in_flight in (1, 4, 16):
        for _ in range(in_flight):
            assert claimed(store).tenant == "many"
        first = a_job(tenant=f"other-{in_flight}", id=new_id("job"))
        submit(store, first)
        order = [claimed(store).id for _ in range(in_flight + 1)]
        assert first.id in order, f"not among the next {in_flight + 1} jobs"
        assert order.index(first.id) <= 1, "one job of the tenant whose turn it was, then the first of the other"


@pytest.mark.parametrize("store", ["valkey"], indirect=True)
def test_tenants_with_backlogs_share_the_workers_equally(store: Store) -> None:
    for tenant, jobs in (("many", 500), ("some", 50), ("few", 10)):
        submit(store, *(a_job(tenant=tenant) for _ in range(jobs)))
    served = [claimed(store).tenant for _ in range(30)]
    assert {tenant: served.count(tenant) for tenant in set(served)} == {"many": 10, "some": 10, "few": 10}
