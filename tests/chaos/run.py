"""One run: start, traffic, faults after a seeded schedule, drain, verdict, report."""

import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import httpx
import redis

from tests.chaos.faults.base import Run
from tests.chaos.faults.catalogue import FAULTS
from tests.chaos.faults.workers import lose_last_hints
from tests.chaos.fleet import SLOTS, Fleet, wait
from tests.chaos.ledger import TERMINAL, Facts, Json, Ledger, Submission
from tests.chaos.proxy import Network
from tests.chaos.receiver import Receiver
from tests.chaos.traffic import Traffic
from tests.chaos.verdict import Verdict, judge
from tests.waiting import eventually

CALM_S = 3.0  #: without faults, at the beginning
GAP_S = (0.3, 1.5)  #: between two faults
TRIES = 3  #: at a fault; a process may not come by the place where it waits, as while it refuses all work
DRAIN_S = 90.0  #: in which everything accepted must end after the last fault
REPEAT_S = 20.0  #: in which a request must be accepted once every fault is over
PAGE = 100
SETS = ("outbox", "leases", "hooks", "delayed", "unarchived")  #: of the store; empty once everything has ended

Say = Callable[[str], None]


def schedule(rng: random.Random, names: Sequence[str]) -> Iterator[str]:
    """Yield fault names for ever: all of them in a drawn order, then all again in another."""
    while True:
        yield from rng.sample(names, len(names))


def chaos(
    seconds: float,
    seed: int,
    say: Say,
    *,
    names: Sequence[str] = (),
    rounds: int | None = None,
    folder: Path | None = None,
) -> Verdict:
    """Run for `seconds`, or until every fault was injected `rounds` times; return the verdict.

    Data and logs are in `folder`, which then stays, or in a temporary one, which goes once the verdict is green.
    """
    rng = random.Random(seed)
    temporary, folder = folder is None, folder or Path(tempfile.mkdtemp(prefix="tileq-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    say(f"data and logs: {folder}")
    with ExitStack() as stack:
        began = time.monotonic()
        network = stack.enter_context(Network())
        ledger = Ledger()
        fleet = stack.enter_context(Fleet(folder, network, ledger))
        receiver = stack.enter_context(Receiver(ledger, fleet.webhook_secret))
        hook = network.proxy("receiver", receiver.port)
        traffic = Traffic(fleet.urls, f"http://127.0.0.1:{hook.port}/hook", ledger, rng)
        run = Run(fleet, network, ledger, traffic, receiver, hook, rng)
        say(f"seed {seed}: {len(fleet.processes)} processes up in {time.monotonic() - began:.1f} s")
        with traffic:
            wait(CALM_S)
            _inject(run, seconds, say, names or list(FAULTS), rounds)
            wait(1)
        lose_last_hints(run)
        say(f"traffic ended after {time.monotonic() - began:.0f} s, {traffic.refused} answers were no acceptance")
        facts = drain(run, say)
        verdict = judge(facts)
        report(run, facts, verdict, say)
        say(f"whole run: {time.monotonic() - began:.0f} s")
    if temporary and not verdict.violations:
        shutil.rmtree(folder)
    return verdict


def _inject(run: Run, seconds: float, say: Say, names: Sequence[str], rounds: int | None) -> None:
    until = time.monotonic() + seconds
    limit = rounds * len(names) if rounds else None
    for count, name in enumerate(schedule(run.rng, names)):
        if time.monotonic() > until or count == limit:
            return
        for _ in range(TRIES):
            began = time.monotonic()
            FAULTS[name](run)
            fault = run.ledger.faults[-1]
            say(f"{count + 1:4} {name} of {fault.target}: {fault.evidence or 'DID NOT HAPPEN'} ({_since(began)})")
            wait(run.rng.uniform(*GAP_S))
            if fault.evidence:
                break


def drain(run: Run, say: Say) -> Facts:
    """Wait until everything has ended, or time is up; return what is to be judged."""
    began = time.monotonic()
    with run.ledger.client(timeout=10) as http:
        for url in run.traffic.urls:
            eventually(lambda url=url: not run.fleet.probe(url)(), 60, 0.1)  # type: ignore[misc]
        refused = [one for one in list(run.ledger.submissions.values()) if not one.ids and not _taken(run, http, one)]
        listed = _list(run, http)
        accepted = set(run.ledger.accepted())
        known = accepted | {id for ids in listed.values() for id in ids}
        final: dict[str, Json | None] = {}
        _within_drain(lambda: _ended(run, http, known, final))
        final = {id: job for id, job in final.items() if id in accepted or job is not None}
        _within_drain(lambda: not _unheard(run, final))
        _within_drain(lambda: not any(_residue(run).values()), DRAIN_S / 3)
    say(f"drained in {_since(began)}")
    with run.fleet.store() as client:
        results = {id: client.hget(f"{run.fleet.prefix}job:{id}", "result") or "" for id in final}
        stranded = int(client.hlen(f"{run.fleet.prefix}mq:unacked"))
    return Facts(
        submissions=list(run.ledger.submissions.values()),
        seen=run.ledger.seen(),
        final=final,
        results={id: key for id, key in results.items() if key},
        arrivals=list(run.ledger.arrivals),
        faults=run.ledger.faults,
        deaths=run.ledger.deaths,
        server_errors=run.ledger.server_errors,
        residue=_residue(run),
        listed=listed,
        refused=[one.number for one in refused],
        stranded=stranded,
        stranded_allowed=run.hard_kills * (SLOTS + 1),
    )


def _taken(run: Run, http: httpx.Client, submission: Submission) -> bool:
    """Repeat a request that was never accepted; every fault is over, so that it must be now."""
    return _within_drain(lambda: run.traffic.send(submission, http, run.traffic.urls[0]), REPEAT_S)


def _within_drain(done: Callable[[], bool], seconds: float = DRAIN_S) -> bool:
    """Wait for `done`; when it does not come true, the verdict tells."""
    try:
        return eventually(done, seconds, 0.2)
    except AssertionError:
        return False


def _list(run: Run, http: httpx.Client) -> dict[int, list[str]]:
    """Ids by request number of every job that clients submitted; the fault that makes batches asks for theirs."""
    found: dict[int, list[str]] = {}
    after = ""
    while True:
        query = {"limit": str(PAGE), **({"after": after} if after else {})}
        page = eventually(lambda query=query: _page(run, http, query), 30, 0.2)  # type: ignore[misc]
        for job in page["data"]:
            if number := job["metadata"].get("number"):
                found.setdefault(int(number), []).append(job["id"])
        after = page["next"] or ""
        if not after:
            return found


def _page(run: Run, http: httpx.Client, query: dict[str, str]) -> Json | None:
    answer = http.get(f"{run.traffic.urls[0]}/v1/jobs", params=query)
    return dict(answer.json()) if answer.status_code == 200 else None


def _ended(run: Run, http: httpx.Client, ids: set[str], final: dict[str, Json | None]) -> bool:
    """Ask for every job that is not known to have ended; True when all have."""
    for id in ids:
        job = final.get(id)
        if job is None or job["state"] not in TERMINAL:
            answer = http.get(f"{run.traffic.urls[1]}/v1/jobs/{id}")
            final[id] = _timed(answer.json()) if answer.status_code == 200 else None
            if answer.status_code == 200:
                run.ledger.see(answer.json())
    return all(job is not None and job["state"] in TERMINAL for job in final.values())


def _timed(job: Json) -> Json:
    """Add the times of its beginning and end as seconds since the epoch."""
    ended = job["ended_at"] or datetime.now(UTC).isoformat()
    stamps = {"began": job["created_at"], "ended": ended}
    return job | {name: datetime.fromisoformat(text).timestamp() for name, text in stamps.items()}


def _unheard(run: Run, final: dict[str, Json | None]) -> set[str]:
    """Jobs that ended and whose receiver has not heard of it."""
    heard = {(arrival.job, arrival.type) for arrival in list(run.ledger.arrivals)}
    return {
        id for id, job in final.items() if job and job["state"] in TERMINAL and (id, f"job.{job['state']}") not in heard
    }


def _residue(run: Run) -> dict[str, int]:
    try:
        with run.fleet.store() as client:
            sets = {name: int(client.zcard(f"{run.fleet.prefix}{name}")) for name in SETS}
            queues = {key: client.llen(key) for key in client.scan_iter(f"{run.fleet.prefix}mq:*", _type="list")}
    except redis.RedisError:
        return {"store, which does not answer": 1}
    return {**sets, **{key.removeprefix(run.fleet.prefix): int(length) for key, length in queues.items()}}


def report(run: Run, facts: Facts, verdict: Verdict, say: Say) -> None:
    """Say what was done and found; the last line is the verdict's."""
    by_name: dict[str, int] = {}
    for fault in facts.faults:
        by_name[fault.name] = by_name.get(fault.name, 0) + bool(fault.evidence)
    say(f"faults: {', '.join(f'{name} {count}' for name, count in sorted(by_name.items()))}")
    say(f"states: {verdict.states}; requests never accepted: {len(facts.refused)}")
    say(
        f"repeated attempts {verdict.repeated_attempts}, repeated webhooks {verdict.repeated_webhooks}, "
        f"hints stranded in `unacked` {facts.stranded} (explained: {facts.stranded_allowed})"
    )
    for violation in verdict.violations:
        say(f"VIOLATION {violation}")


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.1f} s"
