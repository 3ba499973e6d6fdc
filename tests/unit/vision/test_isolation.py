"""The last attempt of a job that lost its worker before runs alone: one that kills workers takes no other along."""

import threading
from collections.abc import Callable, Iterator

import pytest

from shared.jobs import Job, State
from shared.records import JobError
from shared.store import transitions
from tests.unit.vision.worker_fixture import MODEL, ScriptedEngine, WorkerFixture, answer
from tests.waiting import eventually
from workers.vision.engine.base import EngineRequest, Event

Build = Callable[..., WorkerFixture]


class Gated(ScriptedEngine):
    """Answers a question once its text is among `open`; remembers which others ran whenever one began."""

    slots = 4

    def __init__(self) -> None:
        super().__init__()
        self.open: set[str] = set()
        self.running: list[str] = []
        self.beside: dict[str, list[str]] = {}

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        question = request.prompt.question
        self.beside[question] = list(self.running)
        self.running.append(question)
        eventually(lambda: question in self.open)
        self.running.remove(question)
        yield answer()


@pytest.fixture
def engine() -> Gated:
    return Gated()


@pytest.fixture
def gated(build: Build, engine: Gated) -> WorkerFixture:
    return build(engine=engine)


def lose(worker: WorkerFixture, job: Job, times: int = 2) -> Job:
    """Let workers be lost with `job`, which nobody else waits beside."""
    for _ in range(times):
        claimed = worker.store.run(transitions.claim(MODEL, "lost", -1)).value
        assert claimed is not None
        worker.store.run(transitions.reap(0))
    assert worker.read(job).lost == times
    return job


def waiting(worker: WorkerFixture) -> bool:
    return worker.worker.isolation.waiting > 0


def marked(worker: WorkerFixture, job: Job) -> bool:
    """Whether the store holds that the attempt waits."""
    return worker.store.client.hget(f"{worker.store.prefix}job:{job.id}", "waits") == "1"


def ended(worker: WorkerFixture, *jobs: Job) -> bool:
    return all(worker.state(job) is State.SUCCEEDED for job in jobs)


def test_a_last_attempt_waits_for_the_others_and_none_begins_beside_it(gated: WorkerFixture, engine: Gated) -> None:
    suspect = lose(gated, gated.submit("suspect"))
    first = gated.submit("first", priority=0)
    threads = [gated.handle_hint_in_thread()]
    eventually(lambda: engine.running == ["first"])
    threads.append(gated.handle_hint_in_thread())
    eventually(lambda: waiting(gated) or "suspect" in engine.beside)
    assert marked(gated, suspect)
    engine.open.add("first")
    eventually(lambda: engine.running == ["suspect"])
    assert not marked(gated, suspect)
    later = gated.submit("later")
    threads.append(gated.handle_hint_in_thread())
    engine.open |= {"suspect", "later"}
    eventually(lambda: ended(gated, suspect, first, later))
    assert engine.beside == {"first": [], "suspect": [], "later": []}
    for thread in threads:
        thread.join()


def test_several_run_one_after_the_other(gated: WorkerFixture, engine: Gated) -> None:
    jobs = [gated.submit(text) for text in ("a", "b", "c")]
    for _ in range(2):
        for _ in jobs:
            gated.store.run(transitions.claim(MODEL, "lost", -1))
        gated.store.run(transitions.reap(0))
    engine.open |= {"a", "b", "c"}
    threads = [gated.handle_hint_in_thread() for _ in jobs]
    eventually(lambda: ended(gated, *jobs))
    assert set(map(tuple, engine.beside.values())) == {()}
    for thread in threads:
        thread.join()


def test_one_that_is_cancelled_while_it_waits_lets_the_others_go_on(gated: WorkerFixture, engine: Gated) -> None:
    suspect = lose(gated, gated.submit("suspect"))
    first = gated.submit("first", priority=0)
    threads = [gated.handle_hint_in_thread()]
    eventually(lambda: engine.running == ["first"])
    threads.append(gated.handle_hint_in_thread())
    eventually(lambda: waiting(gated))
    gated.store.run(transitions.cancel("acme", suspect.id))
    eventually(lambda: gated.state(suspect) is State.CANCELLED)
    later = gated.submit("later")
    threads.append(gated.handle_hint_in_thread())
    eventually(lambda: engine.running == ["first", "later"])
    engine.open |= {"first", "later"}
    eventually(lambda: ended(gated, first, later))
    for thread in threads:
        thread.join()


def test_without_the_store_an_attempt_does_not_run_alone_and_is_given_back(gated: WorkerFixture) -> None:
    suspect = lose(gated, gated.submit("suspect"))
    gated.store.away = lambda script: script == "heartbeat"
    gated.handle_hint()
    given_back = gated.read(suspect)
    assert (given_back.state, given_back.charged) == (State.QUEUED, 2)


@pytest.mark.parametrize("times", [0, 1])
def test_an_attempt_that_is_not_the_last_runs_beside_others(gated: WorkerFixture, engine: Gated, times: int) -> None:
    lose(gated, gated.submit("again"), times)
    gated.submit("first", priority=0)
    threads = [gated.handle_hint_in_thread()]
    eventually(lambda: engine.running == ["first"])
    threads.append(gated.handle_hint_in_thread())
    eventually(lambda: engine.running == ["first", "again"])
    engine.open |= {"first", "again"}
    for thread in threads:
        thread.join()


def test_attempts_that_failed_by_an_outage_do_not_make_a_job_suspect(gated: WorkerFixture) -> None:
    job = gated.submit("again")
    for _ in range(2):
        claimed = gated.store.run(transitions.claim(MODEL, "other", 60)).value
        assert claimed is not None
        error = JobError(code="storage_unavailable", message="503", retryable=True)
        gated.store.run(transitions.retry(claimed.id, claimed.attempt, error, 0))
    last = gated.store.run(transitions.claim(MODEL, "other", 60)).value
    assert last is not None
    assert (last.id, last.charged, last.suspect) == (job.id, last.max_attempts, False)


def test_a_worker_that_stops_waits_for_no_place(gated: WorkerFixture) -> None:
    isolation, stopping = gated.worker.isolation, threading.Event()
    assert isolation.enter(stopping)
    stopping.set()
    assert not isolation.enter(stopping)
