"""Clients: they submit under Idempotency-Keys until they have an answer, cancel some jobs, and poll others."""

import io
import random
import threading
from collections.abc import Sequence
from typing import Any, Self

import httpx
from PIL import Image

from tests.acceptance.client import data_uri
from tests.chaos.ledger import Json, Kind, Ledger, Submission

CLIENTS = 3
PAUSE_S = 0.25  #: between two requests of one client
RETRY_S = 0.3
LONG_EVERY = 4  #: requests of which one has an answer that is too large for its record
LONG = " and so on" * 5


class Traffic:
    """Keeps clients busy while the block runs; afterwards every request under way has been answered or given up."""

    def __init__(self, urls: Sequence[str], hook: str, ledger: Ledger, rng: random.Random) -> None:
        self.urls = list(urls)
        self.hook = hook
        self.ledger = ledger
        self.refused = 0  #: answers that were no acceptance: what a user sees of the faults
        self._kinds = rng
        self._numbers = iter(range(1, 10**9))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._submit_on, args=(n,), daemon=True) for n in range(CLIENTS)]
        self._threads.append(threading.Thread(target=self._look_on, args=(random.Random(rng.random()),), daemon=True))
        self._image = data_uri(_png())

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def new(self, kind: Kind) -> Submission:
        """Return a request that was not sent yet."""
        with self._lock:
            number = next(self._numbers)
        return self.ledger.submit(number, kind, _prompt(kind, number))

    def submit(self, kind: Kind, http: httpx.Client, first: int = 0, patience_s: float = 20) -> Submission:
        """Send one request under its own key until it is accepted, or `patience_s` have passed."""
        submission, waited = self.new(kind), 0.0
        while not self.send(submission, http, self.urls[(first + submission.sent) % len(self.urls)]):
            if waited > patience_s or self._stop.is_set():
                break
            threading.Event().wait(RETRY_S)
            waited += RETRY_S
        return submission

    def send(self, submission: Submission, http: httpx.Client, url: str) -> bool:
        """Send a request once; True when the service has taken it."""
        submission.sent += 1
        body: Json = {
            "prompt": submission.prompt,
            "webhook": {"url": self.hook},
            "metadata": {"number": str(submission.number)},
        }
        if submission.kind == "image":
            body |= {"images": [self._image], "tiles": 1}
        try:
            answer = http.post(f"{url}/v1/jobs", json=body, headers={"Idempotency-Key": f"chaos-{submission.number}"})
        except httpx.HTTPError:
            self.refused += 1
            return False
        if answer.status_code not in (200, 202):
            self.refused += 1
            return False
        job = answer.json()
        self.ledger.accept(submission, job["id"])
        self.ledger.see(job)
        return True

    def _submit_on(self, client: int) -> None:
        with self.ledger.client() as http:
            while not self._stop.wait(PAUSE_S):
                with self._lock:
                    kind: Kind = self._kinds.choices(("plain", "image", "cancel"), (7, 2, 1))[0]
                submission = self.submit(kind, http, first=client)
                if kind == "cancel":
                    self._cancel(submission, http)

    def _cancel(self, submission: Submission, http: httpx.Client) -> None:
        for id in submission.ids:
            try:
                answer = http.post(f"{self.urls[submission.number % 2]}/v1/jobs/{id}/cancel")
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                submission.cancel_outcome = answer.json()["outcome"]
                self.ledger.see(answer.json()["job"])

    def _look_on(self, rng: random.Random) -> None:
        with self.ledger.client() as http:
            while not self._stop.wait(0.1):
                if ids := self.ledger.accepted():
                    self.look(rng.choice(ids[-50:]), http, rng.choice(self.urls))

    def look(self, id: str, http: httpx.Client, url: str) -> Json | None:
        """Ask for a job once; None when there was no answer."""
        try:
            answer = http.get(f"{url}/v1/jobs/{id}")
        except httpx.HTTPError:
            return None
        if answer.status_code != 200:
            return None
        job: dict[str, Any] = answer.json()
        self.ledger.see(job)
        return job


def _prompt(kind: Kind, number: int) -> str:
    word = {"poison": "POISON", "hang": "HANG", "slow": "SLOW"}.get(kind, "Job")
    more = LONG if kind != "slow" and number % LONG_EVERY == 0 else ""
    return f"{word} {number} of this run, please{more}"


def _png() -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(written, "PNG")
    return written.getvalue()
