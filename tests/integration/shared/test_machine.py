"""Any order of submitting, claiming, dying, freezing, retrying and cancelling keeps the promise."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from shared.ids import new_id
from shared.jobs import TRANSITIONS, Job, State
from shared.records import JobError
from shared.store import transitions
from shared.store.client import memory_store

PAST, LONG = -1.0, 60.0  #: a lease that has run out already, and one that lasts


@dataclass
class Worker:
    """What a worker believes it holds; after its lease was reaped it does not know better."""

    job: str
    attempt: int


@dataclass
class Seen:
    """What an outside ledger saw of one job."""

    state: State = State.QUEUED
    attempts: list[int] = field(default_factory=list)
    ends: int = 0


class Promise(RuleBasedStateMachine):
    """Workers come and go; the ledger checks every step against the drawn arrows."""

    held = Bundle("held")
    jobs = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self.store = memory_store()
        self.ledger: dict[str, Seen] = {}

    @rule(target=jobs, tenant=st.sampled_from("ab"), priority=st.integers(0, 2), max_attempts=st.integers(1, 3))
    def submit(self, tenant: str, priority: int, max_attempts: int) -> str:
        job = Job(
            new_id("job"),
            tenant,
            "m",
            priority=priority,
            max_attempts=max_attempts,
            start_within=60,
            run_within=60,
            retain=60,
        )
        self.store.run(transitions.submit(tenant, [job], max_queued=10**6, grace=0))
        self.ledger[job.id] = Seen()
        return job.id

    @rule(target=held, lease=st.sampled_from([PAST, LONG]))
    def claim(self, lease: float) -> Any:
        job = self.store.run(transitions.claim("m", "w", lease)).value
        if job is None:
            return multiple()
        seen = self.ledger[job.id]
        assert job.attempt == len(seen.attempts) + 1  # a fencing token is given once
        seen.attempts.append(job.attempt)
        return Worker(job.id, job.attempt)

    @rule(worker=held, state=st.sampled_from([State.SUCCEEDED, State.FAILED, State.CANCELLED]))
    def finish(self, worker: Worker, state: State) -> None:
        holds = self.holds(worker)
        accepted = self.store.run(transitions.finish(worker.job, worker.attempt, state, {})).value
        again = self.now(worker.job).state is state and self.now(worker.job).attempt == worker.attempt
        assert accepted is (holds or again)

    @rule(worker=held)
    def beat(self, worker: Worker) -> None:
        expected = ("ok", "cancel") if self.holds(worker) else ("lease_lost",)
        assert self.store.run(transitions.heartbeat([(worker.job, worker.attempt, {})], LONG))[0] in expected

    @rule(worker=held)
    def freeze(self, worker: Worker) -> None:
        self.store.run(transitions.heartbeat([(worker.job, worker.attempt, {})], 1e-6))

    @rule(worker=held)
    def release(self, worker: Worker) -> None:
        held = self.holds(worker)
        assert self.store.run(transitions.release(worker.job, worker.attempt)).value is held

    @rule(worker=held)
    def retry(self, worker: Worker) -> None:
        held = self.holds(worker)
        assert (
            self.store.run(transitions.retry(worker.job, worker.attempt, JobError(code="x", message="x"), 0)).value
            is not None
        ) is held

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        before = self.now(job).state
        tenant = self.now(job).tenant
        expected = {State.QUEUED: "cancelled", State.RUNNING: "cancelling"}.get(before, "already_ended")
        assert self.store.run(transitions.cancel(tenant, job)).value == expected

    @rule()
    def reap(self) -> None:
        self.store.run(transitions.reap(0))

    @rule()
    def dispatch(self) -> None:
        self.store.run(transitions.dispatch(0.001))

    @invariant()
    def only_drawn_arrows_were_taken(self) -> None:
        for id, seen in self.ledger.items():
            state = self.now(id).state
            if state is not seen.state:
                steps = TRANSITIONS[seen.state]
                assert state in steps or any(state in TRANSITIONS[step] for step in steps)
                seen.ends += state.terminal
                seen.state = state
            assert seen.ends <= 1

    @invariant()
    def every_job_is_in_exactly_one_place(self) -> None:
        outbox, leases = self.members("outbox"), self.members("leases")
        for id in self.ledger:
            state = self.now(id).state
            places = [id in outbox, id in leases, state.terminal]
            assert places == [state is State.QUEUED, state is State.RUNNING, state.terminal]

    def teardown(self) -> None:
        """However it stands, workers that claim, finish and never die bring everything to an end."""
        for _ in range(20 * len(self.ledger)):
            self.store.run(transitions.reap(0))
            self.store.run(transitions.dispatch(0))
            job = self.store.run(transitions.claim("m", "last", LONG)).value
            if job:
                self.store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, {}))
        running = [id for id in self.ledger if not self.now(id).state.terminal]
        assert all(self.now(id).state is State.RUNNING for id in running)  # held by a worker that still renews

    def now(self, id: str) -> Job:
        job = self.store.run(transitions.read_job("", id))
        assert job is not None
        return job

    def holds(self, worker: Worker) -> bool:
        job = self.now(worker.job)
        return job.state is State.RUNNING and job.attempt == worker.attempt

    def members(self, name: str) -> set[str]:
        found: Callable[..., Any] = self.store.client.zrange
        return set(found(f"{self.store.prefix}{name}", 0, -1))


TestPromise = Promise.TestCase
TestPromise.settings = settings(
    max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
