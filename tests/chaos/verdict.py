"""The verdict over a run: every way in which the promise can be broken is looked for, and named with the job.

The shape is that of the battle test of celery-redis-plus: lost, stuck, duplicates that no fault explains, residue, and
that the faults really happened.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.chaos.ledger import TERMINAL, Facts, Fault, Json, Submission

#: Seconds around a fault in which its consequences begin: a lease, the next hint, one backoff.
AFTERMATH_S = 8.0
MAX_ATTEMPTS = 3


@dataclass
class Verdict:
    """What was counted, and every violation in words."""

    accepted: int = 0
    lost: int = 0
    stuck: int = 0
    duplicate_terminals: int = 0
    faults: int = 0
    states: dict[str, int] = field(default_factory=dict)
    repeated_attempts: int = 0  #: attempts beyond the first, all jobs together
    repeated_webhooks: int = 0  #: webhooks that arrived more than once, under one id
    violations: list[str] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The last line of the report."""
        return (
            f"chaos: accepted {self.accepted} lost {self.lost} stuck {self.stuck} "
            f"duplicate-terminals {self.duplicate_terminals} faults {self.faults}"
        )


def judge(facts: Facts) -> Verdict:
    """Judge a run."""
    accepted = {id for one in facts.submissions for id in one.ids}
    verdict = Verdict(accepted=len(accepted), faults=sum(bool(fault.evidence) for fault in facts.faults))
    checks = (
        _lost_and_stuck,
        _one_terminal_state,
        _one_job_per_key,
        _right_answers,
        _webhooks,
        _repetitions,
        _server_errors,
        _processes_and_faults,
        _residue,
    )
    for check in checks:
        verdict.violations += check(facts, verdict)
    return verdict


def _lost_and_stuck(facts: Facts, verdict: Verdict) -> Iterator[str]:
    for id, job in facts.final.items():
        if job is None:
            verdict.lost += 1
            yield f"lost: {id} was accepted, and the service does not know it"
        elif job["state"] not in TERMINAL:
            verdict.stuck += 1
            yield f"stuck: {id} is still {job['state']} after the drain (attempt {job['attempt']})"
        else:
            verdict.states[job["state"]] = verdict.states.get(job["state"], 0) + 1


def _one_terminal_state(facts: Facts, verdict: Verdict) -> Iterator[str]:
    reported = defaultdict(set)
    for arrival in facts.arrivals:
        reported[arrival.job].add(arrival.type.removeprefix("job."))
    for id, job in facts.final.items():
        states = {body["state"] for body in facts.seen.get(id, ())} | reported[id]
        states |= {job["state"]} if job and job["state"] in TERMINAL else set()
        if len(states) > 1:
            verdict.duplicate_terminals += 1
            yield f"duplicate terminal: {id} ended as {' and as '.join(sorted(states))}"
        # The answer to a cancellation and a list leave a large output out.
        texts = {(body.get("output") or {}).get("text") for body in facts.seen.get(id, ())} - {None}
        if len(texts) > 1:
            verdict.duplicate_terminals += 1
            yield f"duplicate terminal: {id} answered {' and then '.join(map(repr, sorted(map(str, texts))))}"


def _one_job_per_key(facts: Facts, verdict: Verdict) -> Iterator[str]:
    for number in facts.refused:
        yield f"never accepted: request {number} was refused even after the last fault"
    for one in facts.submissions:
        forgotten = any(fault.loses_keys and one.begun <= fault.ended for fault in facts.faults)
        ids = {*one.ids, *facts.listed.get(one.number, ())}
        if len(ids) > 1 and not forgotten:
            yield f"two jobs for one Idempotency-Key: request {one.number} became {' and '.join(sorted(ids))}"


def _right_answers(facts: Facts, verdict: Verdict) -> Iterator[str]:
    for one in facts.submissions:
        for id in one.ids:
            if job := facts.final.get(id):
                yield from _right_answer(facts, one, job)


def _right_answer(facts: Facts, one: Submission, job: Json) -> Iterator[str]:
    id, state, error = job["id"], job["state"], (job.get("error") or {}).get("code")
    if state == "succeeded":
        right = "echo: " + "<image>\n" * len(job["images"]) + one.prompt
        if job["output"]["text"] != right:
            yield f"wrong answer: {id} is to say {right!r} and says {job['output']['text']!r}"
        if id in facts.results and not facts.results[id].endswith(f"/result-{job['attempt']}.json"):
            yield f"not the winner's result: {id} ended in attempt {job['attempt']} with {facts.results[id]}"
    if one.kind == "poison" and (state, error, job["attempt"]) != ("failed", "worker_lost", MAX_ATTEMPTS):
        yield f"poison: {id} is {state} ({error}) after {job['attempt']} attempts, not worker_lost after {MAX_ATTEMPTS}"
    if one.kind == "cancel" and one.cancel_outcome == "cancelled" and state != "cancelled":
        yield f"cancelled, yet: {id} is {state}"
    if one.kind in ("plain", "image", "slow") and state != "succeeded" and not _excused(facts, job):
        yield f"not answered: {id} is {state} ({error}) after {job['attempt']} attempts, and no faults explain it"


def _excused(facts: Facts, job: Json) -> bool:
    """Tell whether a job that failed met a costly fault for each of its attempts."""
    error, met = job.get("error") or {}, _met(facts, job)
    return bool(error.get("retryable")) and len(met) >= job["max_attempts"]


def _webhooks(facts: Facts, verdict: Verdict) -> Iterator[str]:
    arrived = defaultdict(list)
    for arrival in facts.arrivals:
        arrived[arrival.job].append(arrival)
        if not arrival.verified:
            yield f"webhook not verified: {arrival.message}"
    for id, job in facts.final.items():
        if job is None or job["state"] not in TERMINAL:
            continue
        mine = [arrival for arrival in arrived[id] if arrival.type == f"job.{job['state']}"]
        if not mine:
            yield f"webhook missing: {id} is {job['state']}, and its receiver never heard of it"
        if len({arrival.message for arrival in mine}) > 1:
            yield f"webhook under two ids: {id}"
        verdict.repeated_webhooks += max(0, len(mine) - 1)
        if len(mine) > 1 and not any(_near(fault, mine[0].at, mine[-1].at) for fault in facts.faults):
            yield f"webhook repeated without a fault: {mine[0].message} arrived {len(mine)} times"


def _repetitions(facts: Facts, verdict: Verdict) -> Iterator[str]:
    for one in facts.submissions:
        for id in one.ids:
            job = facts.final.get(id)
            if job is None or job["attempt"] <= 1 or one.kind in ("poison", "hang"):
                continue
            verdict.repeated_attempts += job["attempt"] - 1
            if not _met(facts, job):
                yield f"repeated without a fault: {id} took {job['attempt']} attempts"


def _met(facts: Facts, job: Json) -> list[Fault]:
    """The faults that may have cost this job an attempt."""
    begun, ended = job["began"], job["ended"]
    return [fault for fault in facts.faults if fault.costs_attempts and _near(fault, begun, ended)]


def _near(fault: Fault, begun: float, ended: float) -> bool:
    return fault.begun <= ended and fault.ended + AFTERMATH_S >= begun


def _server_errors(facts: Facts, verdict: Verdict) -> Iterator[str]:
    for answer in facts.server_errors:
        yield f"server error: {answer}; a fault outside of intake is answered 503"


def _processes_and_faults(facts: Facts, verdict: Verdict) -> Iterator[str]:
    for death in facts.deaths:
        yield f"died without a fault: {death}"
    for fault in facts.faults:
        if not fault.evidence and not _repeated(fault, facts.faults):
            yield f"did not happen: {fault.name} of {fault.target}"


def _repeated(missed: Fault, faults: Sequence[Fault]) -> bool:
    """Tell whether the injector tried a fault again that no process met, and then it happened."""
    return any(one.name == missed.name and one.evidence and one.begun > missed.begun for one in faults)


def _residue(facts: Facts, verdict: Verdict) -> Iterator[str]:
    for place, count in facts.residue.items():
        if count:
            yield f"residue: {count} left in {place}"
    if facts.stranded > facts.stranded_allowed:
        yield f"residue: {facts.stranded} hints stranded in `unacked`, hard kills explain {facts.stranded_allowed}"
