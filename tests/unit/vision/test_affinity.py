"""Second rounds and further questions go to the worker that has their prompt cached."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from shared.jobs import Job
from shared.settings.roles import Settings
from tests.unit.vision.worker_fixture import ScriptedEngine, WorkerFixture, answer
from workers.vision.affinity import MAX_KEYS, CachedPrompts

ROUNDS = 3


def job(key: str, tenant: str = "acme") -> Job:
    return Job("job_x", tenant, "m", affinity=key)


def counted(result: str) -> float:
    return REGISTRY.get_sample_value("tileq_vision_claim_affinity_total", {"result": result}) or 0


@pytest.fixture
def workers() -> Iterator[tuple[WorkerFixture, WorkerFixture]]:
    """Two workers of one store, each with a cache."""
    settings = Settings(retry_backoff=0)
    first = WorkerFixture(engine=ScriptedEngine(answer()), settings=settings)
    second = WorkerFixture(engine=ScriptedEngine(answer()), settings=settings, store=first.store, objects=first.objects)
    for fixture in (first, second):
        fixture.worker = fixture.with_cache(CachedPrompts(100_000))
    with first.open(), second.open():
        yield first, second


def asked(worker: WorkerFixture) -> list[str]:
    assert isinstance(worker.engine, ScriptedEngine)
    return [request.id.partition("/")[0] for request in worker.engine.asked]


def test_rounds_of_alternating_conversations_land_where_their_prompts_are(
    workers: tuple[WorkerFixture, WorkerFixture],
) -> None:
    left, right = workers
    hits, misses = counted("hit"), counted("miss")
    conversations: dict[str, list[str]] = {"a": [], "b": []}
    for round_ in range(ROUNDS):
        order = "ab" if round_ % 2 == 0 else "ba"  # by age alone each would change its worker every round
        for name in order:
            conversations[name].append(left.submit(f"{name} {round_}", record={"affinity": name}).id)
        assert left.worker._process_next()[0]
        assert right.worker._process_next()[0]
    assert (asked(left), asked(right)) == (conversations["a"], conversations["b"])
    assert (counted("hit") - hits, counted("miss") - misses) == (2 * (ROUNDS - 1), 2)


def test_a_worker_that_starts_anew_has_no_preference(workers: tuple[WorkerFixture, WorkerFixture]) -> None:
    left, _ = workers
    left.submit("a", record={"affinity": "a"})
    assert left.worker._process_next()[0]
    left.worker = left.with_cache(CachedPrompts(100_000))  # its process died, and with it the cache and its keys
    oldest = left.submit("b", record={"affinity": "b"})
    left.submit("a again", record={"affinity": "a"})
    assert left.worker._process_next()[0]
    assert asked(left)[-1] == oldest.id


def test_keys_are_of_a_tenant_unless_tenants_share() -> None:
    apart, shared = CachedPrompts(1000), CachedPrompts(1000, "all")
    for cached in (apart, shared):
        cached.add(job("a b"), 10)
    assert (apart.keys(), shared.keys()) == (["acme/a", "acme/b"], ["/a", "/b"])


def test_keys_are_those_of_the_most_recent_prompts_that_the_cache_can_hold() -> None:
    cached = CachedPrompts(100)
    for key in ("a", "b", "a", "c"):
        cached.add(job(key), 50)
    assert cached.keys() == ["acme/a", "acme/c"]
    cached.add(job("whole"), 101)
    assert cached.keys() == []


def test_keys_are_bounded_in_number() -> None:
    cached = CachedPrompts(1_000_000)
    for n in range(MAX_KEYS + 5):
        cached.add(job(str(n)), 1)
    assert (len(cached.keys()), cached.keys()[0]) == (MAX_KEYS, "acme/5")


def test_an_engine_that_keeps_nothing_sends_no_keys_and_counts_no_claim() -> None:
    cached, before = CachedPrompts(0), counted("miss")
    cached.add(job("a"), 10)
    cached.count_claim(job("a"))
    assert (cached.keys(), counted("miss")) == ([], before)
