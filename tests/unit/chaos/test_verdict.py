"""The verdict is green for a run in which the promise was kept, and names each way of breaking it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.ledger import Arrival, Facts, Fault, Json, Submission
from tests.chaos.verdict import AFTERMATH_S, judge

BEGAN, ENDED = 1000.0, 1001.0
FAULT = Fault("kill_worker", "vision", BEGAN, BEGAN + 1, "pid 1 became 2", costs_attempts=True)
LONG_AGO = Fault("kill_worker", "vision", 1.0, 2.0, "pid 1 became 2", costs_attempts=True)


def job(**changes: Any) -> Json:
    made = {"id": "job_1", "state": "succeeded", "attempt": 1, "max_attempts": 3, "images": [], "error": None}
    return made | {"output": {"text": "echo: Job 1"}, "began": BEGAN, "ended": ENDED} | changes


def arrival(
    type: str = "job.succeeded", message: str = "msg_1_succeeded", *, verified: bool = True, at: float = ENDED
) -> Arrival:
    return Arrival(message, "job_1", type, verified, at)


def facts(**changes: Any) -> Facts:
    """A run in which one job was accepted, answered and reported, and a fault happened."""
    whole: dict[str, Any] = {
        "submissions": [Submission(1, "plain", "Job 1", BEGAN, 1, {"job_1": BEGAN})],
        "seen": {"job_1": [job()]},
        "final": {"job_1": job()},
        "results": {"job_1": "jobs/job_1/result-1.json"},
        "arrivals": [arrival()],
        "faults": [FAULT],
        "deaths": [],
        "residue": {"outbox": 0, "leases": 0},
    }
    return Facts(**whole | changes)


def test_a_run_that_kept_the_promise_is_green() -> None:
    verdict = judge(facts())
    assert verdict.violations == []
    assert verdict.line == "chaos: accepted 1 lost 0 stuck 0 duplicate-terminals 0 faults 1"


def lost() -> Facts:
    return facts(final={"job_1": None})


def stuck() -> Facts:
    return facts(final={"job_1": job(state="running", output=None)}, seen={}, arrivals=[])


def two_ends() -> Facts:
    return facts(seen={"job_1": [job(state="failed", output=None), job()]})


def two_ends_by_webhook() -> Facts:
    return facts(arrivals=[arrival(), arrival("job.failed", "msg_1_failed")])


def two_answers() -> Facts:
    return facts(seen={"job_1": [job(output={"text": "something else"}), job()]})


def two_jobs_for_a_key() -> Facts:
    return facts(listed={1: ["job_1", "job_2"]})


def a_request_refused_for_ever() -> Facts:
    return facts(refused=[1])


def a_wrong_answer() -> Facts:
    return facts(final={"job_1": job(output={"text": "echo: Job 2"})})


def the_result_of_a_lost_attempt() -> Facts:
    return facts(final={"job_1": job(attempt=2)})


def an_unexplained_failure() -> Facts:
    failed = job(state="failed", output=None, attempt=3, error={"code": "worker_lost", "retryable": True})
    return facts(final={"job_1": failed}, seen={}, arrivals=[arrival("job.failed")])


def a_poisonous_job_that_ran_too_often() -> Facts:
    failed = job(state="failed", output=None, attempt=4, error={"code": "worker_lost", "retryable": True})
    poison = Submission(1, "poison", "POISON 1", BEGAN, 1, {"job_1": BEGAN})
    return facts(submissions=[poison], final={"job_1": failed}, seen={}, arrivals=[arrival("job.failed")])


def a_cancelled_job_that_was_answered() -> Facts:
    cancelled = Submission(1, "cancel", "Job 1", BEGAN, 1, {"job_1": BEGAN}, cancel_outcome="cancelled")
    return facts(submissions=[cancelled])


def an_internal_error() -> Facts:
    return facts(server_errors=["500 to GET http://127.0.0.1:8000/v1/jobs/job_1"])


def no_webhook() -> Facts:
    return facts(arrivals=[])


def two_ids_of_one_webhook() -> Facts:
    return facts(arrivals=[arrival(), arrival(message="msg_2")])


def an_unsigned_webhook() -> Facts:
    return facts(arrivals=[arrival(verified=False)])


def a_webhook_repeated_for_no_reason() -> Facts:
    return facts(arrivals=[arrival(), arrival(at=ENDED + 1)], faults=[LONG_AGO])


def a_repetition_for_no_reason() -> Facts:
    again = job(attempt=2)
    results = {"job_1": "jobs/job_1/result-2.json"}
    return facts(final={"job_1": again}, seen={}, results=results, faults=[LONG_AGO])


def a_death_for_no_reason() -> Facts:
    return facts(deaths=["intake ended with 1"])


def a_fault_that_did_not_happen() -> Facts:
    return facts(faults=[Fault("kill_worker", "vision", BEGAN, ENDED)])


def residue() -> Facts:
    return facts(residue={"outbox": 1})


def stranded_hints() -> Facts:
    return facts(stranded=3, stranded_allowed=2)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lost, "lost: job_1"),
        (stuck, "stuck: job_1 is still running"),
        (two_ends, "duplicate terminal: job_1 ended as failed and as succeeded"),
        (two_ends_by_webhook, "duplicate terminal: job_1"),
        (two_answers, "duplicate terminal: job_1 answered"),
        (two_jobs_for_a_key, "two jobs for one Idempotency-Key: request 1"),
        (a_request_refused_for_ever, "never accepted: request 1"),
        (a_wrong_answer, "wrong answer: job_1"),
        (the_result_of_a_lost_attempt, "not the winner's result: job_1"),
        (an_unexplained_failure, "not answered: job_1"),
        (a_poisonous_job_that_ran_too_often, "poison: job_1"),
        (a_cancelled_job_that_was_answered, "cancelled, yet: job_1"),
        (an_internal_error, "server error: 500 to GET"),
        (no_webhook, "webhook missing: job_1"),
        (two_ids_of_one_webhook, "webhook under two ids: job_1"),
        (an_unsigned_webhook, "webhook not verified: msg_1"),
        (a_webhook_repeated_for_no_reason, "webhook repeated without a fault: msg_1"),
        (a_repetition_for_no_reason, "repeated without a fault: job_1"),
        (a_death_for_no_reason, "died without a fault: intake"),
        (a_fault_that_did_not_happen, "did not happen: kill_worker"),
        (residue, "residue: 1 left in outbox"),
        (stranded_hints, "residue: 3 hints stranded"),
    ],
)
def test_each_way_of_breaking_the_promise_is_named(broken: Callable[[], Facts], said: str) -> None:
    assert any(line.startswith(said) for line in judge(broken()).violations)


def test_a_fault_explains_a_repetition_for_as_long_as_its_aftermath() -> None:
    again = {"job_1": job(attempt=2)}
    results = {"job_1": "jobs/job_1/result-2.json"}
    near = Fault("kill_worker", "vision", 1.0, BEGAN - AFTERMATH_S + 1, "killed", costs_attempts=True)
    assert judge(facts(final=again, seen={}, results=results, faults=[near])).violations == []


def test_a_fault_that_cannot_cost_an_attempt_explains_none() -> None:
    again = {"job_1": job(attempt=2)}
    results = {"job_1": "jobs/job_1/result-2.json"}
    other = Fault("receiver_down", "receiver", BEGAN, ENDED, "refused 2")
    assert judge(facts(final=again, seen={}, results=results, faults=[other])).violations


def test_two_jobs_for_a_key_are_forgiven_where_the_keys_were_lost_with_the_store() -> None:
    flush = Fault("lose_store", "valkey", BEGAN, ENDED, "flushed", loses_keys=True)
    assert judge(facts(listed={1: ["job_1", "job_2"]}, faults=[flush])).violations == []


def test_an_outage_of_storage_does_not_explain_that_a_job_failed_for_want_of_it() -> None:
    error = {"code": "storage_unavailable", "retryable": True}
    failed = job(state="failed", output=None, attempt=3, error=error)
    outage = Fault("s3_down", "seaweedfs", BEGAN, ENDED, "refused 9", costs_attempts=True)
    whole = {"final": {"job_1": failed}, "seen": {}, "arrivals": [arrival("job.failed")]}
    assert judge(facts(**whole, faults=[outage])).violations


def test_a_fault_that_happened_when_it_was_tried_again_is_no_violation() -> None:
    missed = Fault("kill_worker", "vision", BEGAN, ENDED)
    again = Fault("kill_worker", "vision-2", BEGAN + 1, ENDED + 1, evidence="killed")
    assert not [line for line in judge(facts(faults=[missed, again])).violations if line.startswith("did not")]
    assert judge(facts(faults=[again, replace(missed, begun=BEGAN + 2)])).violations
