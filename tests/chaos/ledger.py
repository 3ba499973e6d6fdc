"""The ledger: what the service promised and what reached its clients, written down outside the service.

Nothing here reads the service's records. `Facts` is all that a verdict needs, so that a verdict can be tested alone.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

Json = dict[str, Any]
Kind = Literal["plain", "image", "slow", "cancel", "poison", "hang"]
TERMINAL = ("succeeded", "failed", "cancelled", "expired")


@dataclass(frozen=True)
class Arrival:
    """One webhook as the receiver got it."""

    message: str  #: webhook-id
    job: str
    type: str
    verified: bool  #: the signature was right
    at: float


@dataclass
class Fault:
    """One injected fault. Times are seconds since the epoch."""

    name: str
    target: str
    begun: float
    ended: float = 0
    evidence: str = ""  #: what shows that it really happened; empty: it did not
    costs_attempts: bool = False  #: it may make a worker lose an attempt
    loses_keys: bool = False  #: Idempotency-Keys taken before it may be forgotten


@dataclass
class Submission:
    """One request, which may be sent many times under one Idempotency-Key."""

    number: int
    kind: Kind
    prompt: str
    begun: float
    sent: int = 0
    ids: dict[str, float] = field(default_factory=dict)  #: job ids that a 202 or 200 named, and when it came
    cancel_outcome: str = ""


@dataclass
class Facts:
    """What was seen, all of it, at the end of a run."""

    submissions: list[Submission]
    seen: dict[str, list[Json]]  #: terminal bodies of each job, whenever a client saw one
    final: dict[str, Json | None]  #: each accepted job as it is after the drain; None: the service does not know it
    results: dict[str, str]  #: key of the result object in each record that has one
    arrivals: list[Arrival]
    faults: list[Fault]
    deaths: list[str]  #: processes that died without a fault
    residue: dict[str, int]  #: what is left in outbox, leases, hooks and the broker's queues
    listed: dict[int, list[str]] = field(default_factory=dict)  #: ids of each request's jobs, as the service lists them
    refused: list[int] = field(default_factory=list)  #: requests that were not accepted even after the last fault
    server_errors: list[str] = field(default_factory=list)  #: answers of 5xx other than 503
    stranded: int = 0  #: messages in the broker's `unacked`
    stranded_allowed: int = 0  #: how many the injected hard kills explain


class Ledger:
    """Collects facts from all threads."""

    def __init__(self) -> None:
        self.submissions: dict[int, Submission] = {}
        self.arrivals: list[Arrival] = []
        self.faults: list[Fault] = []
        self.deaths: list[str] = []
        self.server_errors: list[str] = []
        self._seen: dict[str, list[Json]] = defaultdict(list)
        self._lock = threading.Lock()

    def client(self, base_url: str = "", timeout: float = 6) -> httpx.Client:
        """Return an HTTP client whose every answer is looked at."""
        return httpx.Client(base_url=base_url, timeout=timeout, event_hooks={"response": [self._answered]})

    def _answered(self, answer: httpx.Response) -> None:
        if answer.is_server_error and answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            with self._lock:
                self.server_errors.append(f"{answer.status_code} to {answer.request.method} {answer.url}")

    def submit(self, number: int, kind: Kind, prompt: str) -> Submission:
        """Write down that a request is about to be sent for the first time."""
        submission = Submission(number, kind, prompt, time.time())
        with self._lock:
            self.submissions[number] = submission
        return submission

    def accept(self, submission: Submission, id: str) -> None:
        """Write down that the service answered 202, or 200 for a job that had ended."""
        with self._lock:
            submission.ids.setdefault(id, time.time())

    def see(self, job: Json) -> None:
        """Write down a job as a client saw it."""
        if job["state"] in TERMINAL:
            with self._lock:
                self._seen[job["id"]].append(job)

    def arrive(self, arrival: Arrival) -> None:
        """Write down a webhook."""
        with self._lock:
            self.arrivals.append(arrival)

    def accepted(self) -> list[str]:
        """Ids of accepted jobs, in order of acceptance."""
        with self._lock:
            pairs = [(at, id) for submission in self.submissions.values() for id, at in submission.ids.items()]
        return [id for _, id in sorted(pairs)]

    def seen(self) -> dict[str, list[Json]]:
        """Terminal bodies by job."""
        with self._lock:
            return {id: list(bodies) for id, bodies in self._seen.items()}

    @contextmanager
    def fault(
        self, name: str, target: str, *, costs_attempts: bool = False, loses_keys: bool = False
    ) -> Iterator[Fault]:
        """Write down a fault for as long as the block lasts; the block sets its `evidence`."""
        fault = Fault(name, target, time.time(), 0, "", costs_attempts, loses_keys)
        with self._lock:
            self.faults.append(fault)
        try:
            yield fault
        finally:
            fault.ended = time.time()
