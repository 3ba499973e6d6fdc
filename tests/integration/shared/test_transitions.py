"""The promise, arrow by arrow, over the in-process double and a real Valkey."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from shared.connections.redis_client import connect
from shared.errors import QueueUnavailable
from shared.ids import new_id
from shared.jobs import TRANSITIONS, Job, State
from shared.records import JobError, JobOutput, WebhookTarget
from shared.settings.roles import Settings
from shared.store import batches, transitions
from shared.store.client import Store, memory_store
from shared.store.stats import StoreStats, get_stats
from tests.waiting import eventually

HOOK = {"url": "http://127.0.0.1:9/hook", "host": "127.0.0.1:9", "payload": "full"}
ENDED = ["job.succeeded", "job.failed", "job.cancelled", "job.expired"]
LONG = 60.0
ERROR = JobError(code="storage_unavailable", message="no answer", retryable=True)


def output(text: str) -> JobOutput:
    return JobOutput(text=text, finish_reason="stop")


GONE = 0.001  #: a lease or deadline that has passed by the next look


@pytest.fixture(params=["memory", "valkey"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield memory_store()
        return
    client = redis.Redis.from_url(request.getfixturevalue("valkey_url"), decode_responses=True)
    yield Store(client, f"{new_id('test')}:")
    client.close()


def a_job(**changes: Any) -> Job:
    job = Job(id=new_id("job"), tenant="acme", model="m", start_within=LONG, run_within=LONG, retain=LONG)
    return replace(job, **changes)


def submit(store: Store, *jobs: Job, **options: Any) -> str:
    options = {"max_queued": 1000, "grace": 0} | options
    return store.run(transitions.submit(jobs[0].tenant, jobs, **options)).outcome


def queued(store: Store, **changes: Any) -> Job:
    job = a_job(**changes)
    assert submit(store, job) == "accepted"
    return job


def claim(store: Store, lease: float = LONG, model: str = "m") -> Job | None:
    return store.run(transitions.claim(model, "worker-1", lease)).value


def claimed(store: Store, lease: float = LONG) -> Job:
    """Claim as soon as something can be; a `Job` is never falsy."""
    job = eventually(lambda: claim(store, lease))
    assert job is not None
    return job


def running(store: Store, lease: float = LONG, **changes: Any) -> Job:
    queued(store, **changes)
    job = claim(store, lease)
    assert job is not None
    return job


def finish(store: Store, job: Job, state: State = State.SUCCEEDED, **fields: Any) -> bool:
    return store.run(transitions.finish(job.id, job.attempt, state, fields)).value


def read(store: Store, id: str) -> Job:
    job = store.run(transitions.read_job("", id))
    assert job is not None
    return job


def reap(store: Store, id: str) -> State:
    eventually(lambda: any(moved[0] == id for moved in store.run(transitions.reap(0)).value))
    return read(store, id).state


def census(store: Store) -> StoreStats:
    return store.run(get_stats())


def in_one_place(store: Store) -> bool:
    now = census(store)
    return now.outbox == now.states.get("queued", 0) and now.leases == now.states.get("running", 0)


def test_a_submitted_job_is_queued_and_in_the_outbox(store: Store) -> None:
    job = queued(store, metadata={"order": "4711"}, priority=0)
    seen = read(store, job.id)
    assert (seen.state, seen.attempt, seen.metadata, seen.priority) == (State.QUEUED, 0, {"order": "4711"}, 0)
    assert seen.created > 0
    assert seen.start_by == pytest.approx(seen.created + LONG)
    assert store.run(transitions.dispatch(10)) == [(job.id, "m")]
    assert in_one_place(store)


def test_submitting_the_same_ids_again_changes_nothing(store: Store) -> None:
    job = queued(store)
    claim(store)
    assert submit(store, job) == "accepted"
    assert read(store, job.id).state is State.RUNNING
    assert census(store).moves == {"queued": 1, "running": 1}


def test_a_full_queue_refuses_all_the_jobs_or_takes_all(store: Store) -> None:
    assert submit(store, a_job(), a_job(), max_queued=1) == "overloaded"
    assert census(store).states == {}
    assert submit(store, a_job(), a_job(), max_queued=2) == "accepted"


def test_a_claim_begins_an_attempt_and_a_lease(store: Store) -> None:
    job = running(store)
    assert (job.state, job.attempt, job.charged, job.owner) == (State.RUNNING, 1, 1, "worker-1")
    assert job.run_by == pytest.approx(job.started + LONG)
    assert in_one_place(store)
    assert claim(store) is None


def test_a_claim_takes_only_jobs_of_its_model(store: Store) -> None:
    queued(store, model="other")
    assert claim(store) is None
    assert claim(store, model="other") is not None


def test_priority_goes_before_age(store: Store) -> None:
    jobs = [queued(store, priority=priority) for priority in (2, 1, 0)]
    assert [claimed(store).id for _ in jobs] == [job.id for job in reversed(jobs)]


def test_tenants_are_served_in_turn_however_many_jobs_one_has(store: Store) -> None:
    for tenant in ("greedy", "greedy", "greedy", "greedy", "modest", "modest"):
        submit(store, a_job(tenant=tenant))
    order = [claimed(store).tenant for _ in range(6)]
    assert order == ["greedy", "modest", "greedy", "modest", "greedy", "greedy"]


def test_the_queue_position_counts_what_will_be_served_before(store: Store) -> None:
    first = [queued(store, tenant="a") for _ in range(3)]
    other = [queued(store, tenant="b") for _ in range(2)]
    urgent = queued(store, tenant="c", priority=0)
    positions = {job.id: read(store, job.id).position for job in (*first, *other, urgent)}
    order = [claimed(store).id for _ in positions]
    assert [positions[id] for id in order] == list(range(6))


def test_a_lease_that_nobody_renews_gives_the_job_to_the_next_attempt(store: Store) -> None:
    job = running(store, GONE)
    assert reap(store, job.id) is State.QUEUED
    assert in_one_place(store)
    again = claimed(store)
    assert (again.id, again.attempt, again.lost) == (job.id, 2, 1)
    assert again.started == job.started


def test_a_renewed_lease_is_not_reaped(store: Store) -> None:
    renewed = running(store, GONE)
    assert store.run(transitions.heartbeat([(renewed.id, 1, {})], LONG)) == ["ok"]
    lost = running(store, GONE)  # its lease ends after the one that was renewed would have
    assert reap(store, lost.id) is State.QUEUED
    assert read(store, renewed.id).state is State.RUNNING


def test_looking_does_not_renew(store: Store) -> None:
    job = running(store)
    before = lease_end(store, job)
    assert store.run(transitions.heartbeat([(job.id, 1, {})], 0)) == ["ok"]
    assert lease_end(store, job) == before > job.claimed


def lease_end(store: Store, job: Job) -> float:
    return store.client.zscore(f"{store.prefix}leases", job.id) or 0


def test_the_last_lost_attempt_fails_with_worker_lost(store: Store) -> None:
    job = queued(store, max_attempts=2, webhook=HOOK | {"events": ENDED})
    for expected in (State.QUEUED, State.FAILED):
        claimed(store, GONE)
        assert reap(store, job.id) is expected
    ended = read(store, job.id)
    assert ended.error is not None
    assert (ended.error.code, ended.error.retryable, ended.hook_state) == ("worker_lost", True, "pending")
    assert in_one_place(store)


def test_an_attempt_that_waited_to_run_alone_is_not_charged_unless_that_goes_on_and_on(store: Store) -> None:
    job = queued(store, max_attempts=2)
    claimed(store, GONE)
    assert reap(store, job.id) is State.QUEUED
    for lost in range(2, 7):
        waiting = claimed(store, GONE)
        assert (waiting.id, waiting.lost, waiting.suspect) == (job.id, lost - 1, True)
        store.run(transitions.heartbeat([(job.id, waiting.attempt, {"waits": 1})], 0))
        assert reap(store, job.id) is State.QUEUED
        assert in_one_place(store)
    last = claimed(store, GONE)
    store.run(transitions.heartbeat([(job.id, last.attempt, {"waits": 1})], 0))
    assert reap(store, job.id) is State.FAILED


def test_a_thawed_worker_can_neither_renew_nor_finish(store: Store) -> None:
    frozen = running(store, GONE)
    reap(store, frozen.id)
    winner = claimed(store)
    assert store.run(transitions.heartbeat([(frozen.id, frozen.attempt, {})], LONG)) == ["lease_lost"]
    assert finish(store, frozen, output=output("late")) is False
    assert store.run(transitions.retry(frozen.id, frozen.attempt, ERROR, 0)).value is None
    assert store.run(transitions.release(frozen.id, frozen.attempt)).value is False
    assert finish(store, winner, output=output("right")) is True
    assert finish(store, frozen, output=output("late")) is False
    assert read(store, winner.id).output == output("right")


def test_finish_tells_whether_another_job_of_the_model_is_ready(store: Store) -> None:
    first, second = running(store), running(store)
    queued(store, model="other")
    waiting = queued(store)
    assert store.run(transitions.finish(first.id, 1, State.SUCCEEDED, {})).more is True
    assert store.run(transitions.finish(first.id, 1, State.SUCCEEDED, {})).more is True
    assert claimed(store).id == waiting.id
    assert store.run(transitions.finish(second.id, 1, State.SUCCEEDED, {})).more is False


def test_a_job_whose_backoff_has_passed_is_ready_when_another_ends(store: Store) -> None:
    retried, other = running(store), running(store)
    store.run(transitions.retry(retried.id, 1, ERROR, 0.001))
    eventually(lambda: store.run(transitions.finish(other.id, 1, State.SUCCEEDED, {})).more)


def test_finish_can_be_repeated_after_a_lost_answer(store: Store) -> None:
    job = running(store, webhook=HOOK | {"events": ENDED})
    first = store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {"output": output("a"), "result": "key"}))
    assert (first.value, len(first.messages)) == (True, 1)
    again = store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {"output": output("b")}))
    assert (again.value, again.messages) == (True, ())
    assert read(store, job.id).output == output("a")
    assert census(store).hooks == 1


@pytest.mark.parametrize("state", [state for state in State if state.terminal])
def test_a_terminal_state_never_changes(store: Store, state: State) -> None:
    job = ended_in(store, state)
    assert finish(store, replace(job, attempt=job.attempt + 1)) is False
    assert store.run(transitions.cancel("acme", job.id)).value == "already_ended"
    assert claim(store) is None
    assert store.run(transitions.reap(0)).value == []
    assert store.run(transitions.expire_due()).value == []
    assert read(store, job.id).state is state
    assert in_one_place(store)


def ended_in(store: Store, state: State) -> Job:
    if state is State.EXPIRED:
        job = queued(store, start_within=GONE)
        eventually(lambda: store.run(transitions.expire_due()).value)
    elif state is State.CANCELLED:
        job = queued(store)
        store.run(transitions.cancel("acme", job.id))
    else:
        job = running(store)
        assert finish(store, job, state)
    return read(store, job.id)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_only_the_drawn_arrows_exist(store: Store, before: State, after: State) -> None:
    moves: dict[State, Callable[[Job], object]] = {
        State.QUEUED: lambda job: store.run(transitions.release(job.id, job.attempt)),
        State.RUNNING: lambda job: claim(store),
        State.SUCCEEDED: lambda job: finish(store, job),
        State.FAILED: lambda job: finish(store, job, State.FAILED),
        State.CANCELLED: lambda job: cancel(store, job),
        State.EXPIRED: lambda job: store.run(transitions.expire_due()),
    }
    expiring = after is State.EXPIRED and before is State.QUEUED
    if before is State.QUEUED:
        job = queued(store, start_within=GONE if expiring else LONG)
    elif before is State.RUNNING:
        job = running(store)
    else:
        job = ended_in(store, before)
    if expiring:
        eventually(lambda: store.run(transitions.expire_due()).value)
    else:
        moves[after](job)
    reached = read(store, job.id).state
    queued_to_failed = (before, after) == (State.QUEUED, State.FAILED)  # only by run_within: has its own test
    legal = after in TRANSITIONS[before] and not queued_to_failed
    assert reached is (after if legal else before)


def cancel(store: Store, job: Job) -> None:
    if read(store, job.id).state is State.QUEUED:
        store.run(transitions.cancel(job.tenant, job.id))
    finish(store, job, State.CANCELLED)


def test_a_released_job_is_queued_at_once_and_not_charged(store: Store) -> None:
    job = running(store, max_attempts=1)
    assert store.run(transitions.release(job.id, job.attempt)).value is True
    again = claim(store)
    assert again is not None
    assert (again.attempt, again.charged) == (2, 1)
    assert reap_after_losing(store, again) is State.FAILED


def reap_after_losing(store: Store, job: Job) -> State:
    store.run(transitions.heartbeat([(job.id, job.attempt, {})], GONE))
    return reap(store, job.id)


def test_a_passing_trouble_is_retried_after_its_backoff_and_then_fails(store: Store) -> None:
    job = running(store, max_attempts=2)
    assert store.run(transitions.retry(job.id, 1, ERROR, 0.2)).value is State.QUEUED
    assert claim(store) is None  # the backoff has not passed
    assert in_one_place(store)
    again = claimed(store)
    assert store.run(transitions.retry(job.id, again.attempt, ERROR, 0.2)).value is State.FAILED
    assert read(store, job.id).error == ERROR


def test_a_queued_job_is_cancelled_at_once(store: Store) -> None:
    job = queued(store, webhook=HOOK | {"events": ENDED})
    cancelled = store.run(transitions.cancel("acme", job.id))
    assert (cancelled.value, len(cancelled.messages)) == ("cancelled", 1)
    assert read(store, job.id).state is State.CANCELLED
    assert claim(store) is None


def test_a_running_job_learns_of_its_cancellation_and_its_own_end_counts(store: Store) -> None:
    job = running(store)
    assert store.run(transitions.cancel("acme", job.id)).value == "cancelling"
    assert store.run(transitions.cancel("acme", job.id)).value == "cancelling"
    assert store.run(transitions.heartbeat([(job.id, 1, {})], 0)) == ["cancel"]
    assert finish(store, job, State.CANCELLED)
    assert store.run(transitions.cancel("acme", job.id)).value == "already_ended"


def test_a_cancelled_job_of_a_lost_worker_ends_and_is_not_queued_again(store: Store) -> None:
    job = running(store, GONE)
    store.run(transitions.cancel("acme", job.id))
    assert reap(store, job.id) is State.CANCELLED
    other = running(store)
    store.run(transitions.cancel("acme", other.id))
    store.run(transitions.release(other.id, other.attempt))
    assert read(store, other.id).state is State.CANCELLED


def test_nobody_cancels_or_reads_another_tenants_job(store: Store) -> None:
    job = queued(store)
    assert store.run(transitions.cancel("mallory", job.id)).value == ""
    assert store.run(transitions.read_job("mallory", job.id)) is None
    assert store.run(transitions.delete("mallory", job.id)) == "not_found"
    assert read(store, job.id).state is State.QUEUED


def test_a_claim_passes_over_and_expires_what_nobody_started_in_time(store: Store) -> None:
    late, timely = queued(store, start_within=GONE), queued(store)
    eventually(lambda: read(store, late.id).start_by < read(store, queued(store, model="clock").id).created)
    assert claimed(store).id == timely.id
    ended = read(store, late.id)
    assert ended.error is not None
    assert (ended.state, ended.error.code) == (State.EXPIRED, "not_started_in_time")


def test_a_retry_past_run_within_fails_instead_of_running(store: Store) -> None:
    job = running(store, run_within=GONE)
    wait_until_late(store, job)
    assert store.run(transitions.retry(job.id, 1, ERROR, 0)).value is State.QUEUED
    assert claim(store) is None
    ended = read(store, job.id)
    assert ended.error is not None
    assert (ended.state, ended.error.code) == (State.FAILED, "timed_out")


def test_a_late_job_is_told_and_its_lease_is_not_renewed(store: Store) -> None:
    job = running(store, 0.1, run_within=GONE)
    wait_until_late(store, job)
    assert store.run(transitions.heartbeat([(job.id, 1, {})], LONG)) == ["deadline_exceeded"]
    assert reap(store, job.id) is State.QUEUED


def wait_until_late(store: Store, job: Job) -> None:
    eventually(lambda: store.run(transitions.heartbeat([(job.id, job.attempt, {})], 0)) == ["deadline_exceeded"])


def test_progress_travels_with_the_heartbeat(store: Store) -> None:
    job = running(store)
    store.run(transitions.heartbeat([(job.id, 1, {"stage": "decode", "tiles": 13, "completion_tokens": 5})], LONG))
    seen = read(store, job.id)
    assert (seen.stage, seen.tiles, seen.completion_tokens) == ("decode", 13, 5)


def test_every_change_is_published_for_those_who_wait(store: Store) -> None:
    with store.client.pubsub() as listener:  # type: ignore[no-untyped-call]
        listener.subscribe(f"{store.prefix}changes")
        job = running(store)
        finish(store, job)
        heard = eventually(lambda: listener.get_message(ignore_subscribe_messages=True, timeout=0.1))
    assert heard["data"] == f"{job.id} running"  # nobody waits for a job before it is queued


def test_an_unclaimed_hint_is_due_again_later_and_never_after_the_claim(store: Store) -> None:
    job = queued(store)
    assert store.run(transitions.dispatch(GONE)) == [(job.id, "m")]
    assert eventually(lambda: store.run(transitions.dispatch(30))) == [(job.id, "m")]
    assert store.run(transitions.dispatch(30)) == []
    claim(store)
    assert store.run(transitions.dispatch(GONE)) == []


def test_a_job_missing_from_the_ready_queue_is_put_back_and_counted(store: Store) -> None:
    job = queued(store)
    store.client.delete(f"{store.prefix}ready:m:1:acme")
    assert store.run(transitions.dispatch(10)) == [(job.id, "m")]
    assert census(store).repairs == {"unqueued": 1}
    assert claim(store) is not None


def test_a_deleted_job_leaves_nothing_but_its_objects_in_the_trash(store: Store) -> None:
    job = running(store, webhook=HOOK | {"events": ENDED})
    assert store.run(transitions.delete("acme", job.id)) == "not_ended"
    finish(store, job)
    assert store.run(transitions.delete("acme", job.id)) == "deleted"
    assert store.run(transitions.read_job("", job.id)) is None
    assert store.run(transitions.list_trash()) == [job.id]
    store.run(transitions.purge_done([job.id]))
    assert census(store).hooks == 0
    left = {key.removeprefix(store.prefix) for key in store.client.scan_iter(f"{store.prefix}*")}
    assert left <= {"counts", "moves", "queues"}


def test_an_ended_job_is_purged_after_its_retention_and_an_open_one_never(store: Store) -> None:
    waits = queued(store, retain=GONE, model="other")
    ended = running(store, retain=GONE)
    finish(store, ended)
    assert eventually(lambda: store.run(transitions.purge())) == [ended.id]
    assert store.run(transitions.read_job("", ended.id)) is None
    assert read(store, waits.id).state is State.QUEUED


def test_an_idempotency_key_replays_the_job_and_refuses_another_request(store: Store) -> None:
    job = a_job(idem="k")
    assert store.run(transitions.reserve("acme", "k", "print", "token", 60))[:2] == ("reserved", "")
    assert store.run(transitions.reserve("acme", "k", "print", "other", 60))[:2] == ("in_progress", "")
    assert submit(store, job, idem=("k", "token", job.id)) == "accepted"
    assert store.run(transitions.reserve("acme", "k", "print", "other", 60))[:2] == ("replay", job.id)
    assert store.run(transitions.reserve("acme", "k", "different", "other", 60))[:2] == ("mismatch", "")
    assert store.run(transitions.reserve("mallory", "k", "different", "x", 60))[:2] == ("reserved", "")
    assert submit(store, a_job(), idem=("k", "not mine", "job_x")) == "in_progress"


def test_a_refused_request_gives_its_idempotency_key_back(store: Store) -> None:
    store.run(transitions.reserve("acme", "k", "print", "token", 60))
    assert store.run(transitions.unreserve("acme", "k", "someone else's")) is False
    assert store.run(transitions.unreserve("acme", "k", "token")) is True
    assert store.run(transitions.reserve("acme", "k", "different", "other", 60))[:2] == ("reserved", "")


def test_a_batch_ends_with_its_last_job_and_owes_one_webhook(store: Store) -> None:
    batch = {"id": new_id("batch"), "tenant": "acme", "total": "2", "webhook": '{"url":"http://h/","host":"h",'}
    batch["webhook"] += '"payload":"full","events":["batch.ended"]}'
    jobs = [a_job(batch=batch["id"]) for _ in range(2)]
    assert submit(store, *jobs, batch=batch) == "accepted"
    first, second = claim(store), claim(store)
    assert first is not None
    assert second is not None
    assert store.run(transitions.finish(first.id, 1, State.SUCCEEDED, {})).messages == ()
    middle = store.run(batches.get("acme", batch["id"]))
    assert middle is not None
    assert (middle[0].ended, middle[0].counts["succeeded"], middle[0].counts["running"]) == (0, 1, 1)
    assert middle[1] == [job.id for job in jobs]
    assert len(store.run(transitions.finish(second.id, 1, State.FAILED, {})).messages) == 1
    ended = store.run(batches.get("acme", batch["id"]))
    assert ended is not None
    assert ended[0].ended > 0
    assert store.run(batches.get("mallory", batch["id"])) is None


def test_pages_of_jobs_are_newest_first_filtered_and_complete(store: Store) -> None:
    jobs = [queued(store, metadata={"even": str(n % 2 == 0)}) for n in range(5)]
    newest = [job.id for job in sorted(jobs, key=lambda job: job.id, reverse=True)]
    seen, after = [], ""
    while True:
        page, after = store.run(transitions.list_jobs("acme", after=after, limit=2, metadata={}))
        seen += [job.id for job in page]
        if not after:
            break
    assert seen == newest
    even, _ = store.run(transitions.list_jobs("acme", metadata={"even": "True"}))
    assert len(even) == 3
    claim(store)
    in_queue, _ = store.run(transitions.list_jobs("acme", state="queued", metadata={}))
    assert len(in_queue) == 4
    assert store.run(transitions.list_jobs("mallory", metadata={})) == ([], "")


def test_a_lost_record_is_restored_once_and_ends(store: Store) -> None:
    job = a_job(created=1.0, webhook=HOOK | {"events": ENDED})
    assert store.run(transitions.restore(job, State.QUEUED, 0)).value is True
    assert store.run(transitions.restore(job, State.QUEUED, 0)).value is False
    assert claim(store) is not None
    done = a_job(
        created=1.0, attempt=2, output=output("x"), webhook=WebhookTarget.model_validate(HOOK | {"events": ENDED})
    )
    assert len(store.run(transitions.restore(done, State.SUCCEEDED, 0)).messages) == 1
    assert read(store, done.id).output == output("x")
    assert in_one_place(store)


def test_a_worker_is_alive_while_it_announces_itself(store: Store) -> None:
    store.run(transitions.register_worker("m", "w1", {"context": 8192}, LONG))
    store.run(transitions.register_worker("m", "w2", {"context": 8192}, GONE))
    assert eventually(lambda: census(store).models["m"].workers == 1)
    assert census(store).models["m"].card == {"context": 8192}
    store.run(transitions.register_worker("m", "w1", {}, 0))
    assert census(store).models["m"].workers == 0


def test_a_store_that_does_not_answer_is_named_with_the_step() -> None:
    with pytest.raises(QueueUnavailable, match="claim"):
        claim(Store(connect(Settings(redis_url="redis://127.0.0.1:1").store_endpoint), "t:"))


def test_a_reservation_lasts_as_long_as_it_is_extended(store: Store) -> None:
    store.run(transitions.reserve("acme", "k", "print", "token", 60))
    outcome, _, left = store.run(transitions.reserve("acme", "k", "print", "other", 60))
    assert (outcome, 55 < left <= 60) == ("in_progress", True)
    assert store.run(transitions.extend_reservation("acme", "k", "token", 600)) is True
    assert store.run(transitions.reserve("acme", "k", "print", "other", 60))[2] > 500
    assert store.run(transitions.extend_reservation("acme", "k", "other", 600)) is False
    assert store.run(transitions.extend_reservation("acme", "none", "token", 600)) is False
