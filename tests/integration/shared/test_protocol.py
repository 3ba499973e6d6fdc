"""The protocol holds in every order of steps, and the scripts do what the model of it says."""

import random
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import redis

from shared.deliveries import DeliveryOutcome
from shared.jobs import Job, State
from shared.records import JobError
from shared.store import deliveries, transitions
from shared.store.client import Store, memory_store
from tests.integration.shared.model import protocol, system
from tests.integration.shared.model.protocol import MAX_ATTEMPTS, TERMINAL, DeliveryState, JobState, Rules

FAR = 1000.0  #: seconds; what lies so far away has passed, or will not pass
ID, MSG, TENANT, MODEL = "job_x", "msg_x_succeeded", "t", "m"
RULES = Rules()


@cache
def searched() -> system.Search:
    return system.search()


def test_no_order_of_steps_breaks_the_promise_or_gets_stuck() -> None:
    found = searched()
    assert (found.violation, found.stuck, found.hostage) == ("", "", "")
    assert len(found.states) > 1000


@pytest.mark.parametrize(
    ("rules", "broken"),
    [
        (Rules(fencing=False), "a stale attempt ended the job"),
        (Rules(rearm=False), "a job is not in exactly one of outbox, leases and terminal"),
        (Rules(counts_attempts=False), "more attempts than allowed"),
    ],
)
def test_the_search_finds_what_a_missing_rule_breaks(rules: Rules, broken: str) -> None:
    assert system.search(rules).violation.startswith(broken)


def test_the_search_finds_a_job_that_nobody_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "expire_due", lambda job: (job, ""))
    assert system.search().hostage


def test_the_search_finds_a_delivery_that_nobody_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    def never_again(delivery: DeliveryState) -> tuple[DeliveryState, int]:
        return (delivery, 0) if delivery.held else real(delivery)

    real = protocol.claim_delivery
    monkeypatch.setattr(protocol, "claim_delivery", never_again)
    assert "dispatcher dies" in system.search().stuck


# --- the scripts against the model

Step = tuple[str, Callable[[JobState], tuple[JobState, Any]], Callable[[Store], Any]]


def job_steps(job: JobState) -> Iterator[Step]:
    """Every script for every argument that matters: what the model says, and the call."""
    yield "claim", protocol.claim, lambda store: _attempt(store.run(transitions.claim(MODEL, "w", FAR)).value)
    yield (
        "claim with affinity",
        protocol.claim,
        lambda store: _attempt(store.run(transitions.claim(MODEL, "w", FAR, [f"{TENANT}/k"], 16)).value),
    )
    yield "reap", lambda j: protocol.reap(j, RULES), lambda store: _state(store.run(transitions.reap(0)).value)
    yield "expire_due", protocol.expire_due, lambda store: _state(store.run(transitions.expire_due()).value)
    yield "cancel", protocol.cancel, lambda store: store.run(transitions.cancel(TENANT, ID)).value
    yield "dispatch", lambda j: protocol.dispatch(j, RULES), lambda store: bool(store.run(transitions.dispatch(FAR)))
    for attempt in range(1, job.attempt + 2):
        yield from attempt_steps(attempt)


def attempt_steps(attempt: int) -> Iterator[Step]:
    """What a worker says of its attempt, which may be stale."""
    for renew in (True, False):
        yield heartbeat_step(attempt, renew)
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        yield finish_step(attempt, state)
    yield (
        f"retry {attempt}",
        lambda j: protocol.retry(j, attempt, RULES),
        lambda store: store.run(transitions.retry(ID, attempt, JobError(code="x", message="x"), 0)).value or "",
    )
    yield (
        f"release {attempt}",
        lambda j: protocol.release(j, attempt, RULES),
        lambda store: store.run(transitions.release(ID, attempt)).value,
    )


def heartbeat_step(attempt: int, renew: bool) -> Step:
    return (
        f"heartbeat {attempt} {renew}",
        lambda j: protocol.heartbeat(j, attempt, renew, RULES),
        lambda store: store.run(transitions.heartbeat([(ID, attempt, {})], FAR * renew))[0],
    )


def finish_step(attempt: int, state: State) -> Step:
    return (
        f"finish {attempt} {state}",
        lambda j: protocol.finish(j, attempt, state.value, RULES),
        lambda store: store.run(transitions.finish(ID, attempt, state, {})).value,
    )


@pytest.fixture
def store(valkey_url: str, prefix: str) -> Iterator[Store]:
    client = redis.Redis.from_url(valkey_url, decode_responses=True)
    yield Store(client, prefix)
    client.close()


def test_every_script_does_in_every_state_what_the_model_says(store: Store) -> None:
    jobs = {found.job for found in searched().states}
    assert len(jobs) > 50
    cases = [(job, step) for job in sorted(jobs) for step in job_steps(job)]
    places = [Store(store.client, f"{store.prefix}{n}:") for n in range(len(cases))]
    with store.client.pipeline() as pipe:  # all at once: the server syncs each write to disk
        for place, (job, _) in zip(places, cases, strict=True):
            install(pipe, place.prefix, job)
        pipe.execute()
    for place, (job, (name, model, call)) in zip(places, cases, strict=True):
        answer = call(place)
        assert (observe(place), answer) == model(job), f"{name} in {job}"


@pytest.mark.parametrize("seed", range(10))
def test_a_walk_of_the_real_scripts_is_a_walk_of_the_model(seed: int) -> None:
    rng, store, job = random.Random(seed), memory_store(), JobState()
    submitted = Job(ID, TENANT, MODEL, max_attempts=MAX_ATTEMPTS, start_within=FAR, run_within=FAR, retain=FAR)
    store.run(transitions.submit(TENANT, [submitted], max_queued=9, grace=0))
    assert observe(store) == job
    for _ in range(40):
        if job.lease == "live" and rng.random() < 0.3:
            store.client.zadd(f"{store.prefix}leases", {ID: time.time() - FAR})
            job = job._replace(lease="dead")
        name, model, call = rng.choice(list(job_steps(job)))
        expected = model(job)
        answer = call(store)
        assert (observe(store), answer) == expected, f"{name} in {job}"
        if name == "dispatch":  # it is due again only later
            store.client.zadd(f"{store.prefix}outbox", {ID: 0}, xx=True)
        job = expected[0]


def install(client: "redis.client.Pipeline", p: str, job: JobState) -> None:
    """Make the record and the indexes of `job` under prefix `p`."""
    now = time.time()
    start_by, run_by = (now + FAR * (-1 if late else 1) for late in (job.start_late, job.run_late))
    record: Any = {
        "id": ID,
        "tenant": TENANT,
        "model": MODEL,
        "state": job.state,
        "priority": 1,
        "created": now - 2 * FAR,
    }
    record |= {"attempt": job.attempt, "released": job.released, "max_attempts": MAX_ATTEMPTS, "retain": FAR}
    record |= {"start_by": start_by, "run_within": FAR, "cancel": "1" if job.cancel else ""}
    record |= {"started": now - FAR, "run_by": run_by} if job.started else {}
    client.hset(f"{p}job:{ID}", mapping=record)
    client.hset(f"{p}counts", job.state, 1)
    client.zadd(f"{p}jobs:{TENANT}", {ID: 0})
    client.zadd(f"{p}jobs:{TENANT}:{job.state}", {ID: 0})
    if job.state == "queued":
        client.zadd(f"{p}ready:{MODEL}:1:{TENANT}", {ID: now})
        client.zadd(f"{p}turns:{MODEL}:1", {TENANT: now})
    if job.state not in TERMINAL:
        client.zadd(f"{p}deadlines", {ID: run_by if job.started else start_by})
    if job.outbox:
        client.zadd(f"{p}outbox", {ID: 0})
    if job.lease:
        client.zadd(f"{p}leases", {ID: now + (FAR if job.lease == "live" else -FAR)})


def observe(store: Store) -> JobState:
    """Read the job as the model has it."""
    now, p = time.time(), store.prefix
    record: Any = store.client.hgetall(f"{p}job:{ID}")
    lease = store.client.zscore(f"{p}leases", ID)
    return JobState(
        state=record["state"],
        attempt=int(record.get("attempt", 0)),
        released=int(record.get("released", 0)),
        started=bool(record.get("started")),
        cancel=bool(record.get("cancel")),
        outbox=store.client.zscore(f"{p}outbox", ID) is not None,
        lease="" if lease is None else "live" if lease > now else "dead",
        start_late=float(record["start_by"]) < now,
        run_late=bool(record.get("run_by")) and float(record["run_by"]) < now,
    )


def _attempt(job: Job | None) -> int:
    return job.attempt if job else 0


def _state(moved: list[Any]) -> str:
    return str(moved[0][1]) if moved else ""


DeliveryStep = tuple[str, Callable[[DeliveryState], tuple[DeliveryState, Any]], Callable[[Store], Any]]


def delivery_steps(delivery: DeliveryState) -> Iterator[DeliveryStep]:
    """The same for the scripts of a delivery."""
    yield "claim", protocol.claim_delivery, lambda store: _turn(store.run(deliveries.claim("", FAR, 8)))
    for turn in range(1, delivery.turn + 2):
        yield record_step(turn, "delivered")
        yield record_step(turn, "failed")
        yield record_step(turn, "again")
        yield put_back_step(turn)


def record_step(turn: int, outcome: DeliveryOutcome) -> DeliveryStep:
    return (
        f"finish {turn} {outcome}",
        lambda d: protocol.finish_delivery(d, turn, outcome),
        lambda store: store.run(deliveries.finish(MSG, turn, outcome, delay=0, attempt={}, healthy=True)),
    )


def put_back_step(turn: int) -> DeliveryStep:
    return (
        f"release {turn}",
        lambda d: protocol.release_delivery(d, turn),
        lambda store: store.run(deliveries.release(MSG, turn, 0)),
    )


def test_every_script_of_a_delivery_does_in_every_state_what_the_model_says(store: Store) -> None:
    states = {found.delivery for found in searched().states if found.delivery}
    assert len(states) > 5
    cases = [(delivery, step) for delivery in sorted(states) for step in delivery_steps(delivery)]
    for n, (delivery, (name, model, call)) in enumerate(cases):
        place = Store(store.client, f"{store.prefix}{n}:")
        with store.client.pipeline() as pipe:
            install_delivery(pipe, place.prefix, delivery)
            pipe.execute()
        answer = call(place)
        assert (observe_delivery(place), answer) == model(delivery), f"{name} in {delivery}"


def install_delivery(client: "redis.client.Pipeline", p: str, delivery: DeliveryState) -> None:
    now, host = time.time(), "h"
    record: Any = {
        "msg": MSG,
        "subject": ID,
        "tenant": TENANT,
        "type": "job.succeeded",
        "url": "http://h/",
        "host": host,
    }
    record |= {"payload": "full", "state": delivery.state, "attempts": 0, "base": 0, "created": now}
    record |= {"turn": delivery.turn, "recorded": delivery.turn if delivery.recorded else ""}
    due = now + FAR if delivery.held == "live" else now - FAR
    record |= {"held": due} if delivery.held else {}
    client.hset(f"{p}hook:{MSG}", mapping={name: str(value) for name, value in record.items() if value != ""})
    if delivery.state == "pending":
        for key, member in (("hooks", MSG), (f"line:{host}", MSG), ("hosts", host)):
            client.zadd(f"{p}{key}", {member: due})


def observe_delivery(store: Store) -> DeliveryState:
    record: Any = store.client.hgetall(f"{store.prefix}hook:{MSG}")
    held = float(record.get("held") or 0)
    turn = int(record["turn"])
    return DeliveryState(
        state=record["state"],
        turn=turn,
        held="" if not held else "live" if held > time.time() else "dead",
        recorded=turn > 0 and record.get("recorded") == str(turn),
    )


def _turn(delivery: Any) -> int:
    return int(delivery.fence) if delivery else 0
