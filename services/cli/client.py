"""The API as a client with patience sees it: what can be repeated is repeated, what can't be is told once.

People's own clients poll in tight loops, give up on the first broken connection, or submit twice. This one
sends an `Idempotency-Key` with every submission, obeys `Retry-After`, and resumes a broken stream by `Last-Event-ID`.
"""

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from services.cli import sse
from services.cli.failure import Refused, Unreachable

Json = dict[str, Any]
T = TypeVar("T")

ENDED = ("succeeded", "failed", "cancelled", "expired")
_WAIT = 30  # seconds of one long poll
#: A comment comes every 15 s, so a line silent for this long is dead.
_TIMEOUT = httpx.Timeout(45, connect=5)
_PAUSE_FIRST, _PAUSE_MOST = 0.25, 5.0


@dataclass(frozen=True)
class Picture:
    """A file to be sent."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Happened:
    """Something about a job: `state` and `end` carry the job, `delta` a text, `reset` nothing of use."""

    kind: str
    data: Json


class Api:
    """A tileq service at `url`. `patience`: seconds for which a service that does not answer is asked again."""

    def __init__(
        self, url: str, key: str = "", *, patience: float = 30, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"User-Agent": "tileq-cli", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.url = url.rstrip("/")
        self._patience = patience
        self._met = False  # whether it ever answered
        # A proxy for the outside world has no way to this machine's own loopback.
        outside = urlsplit(self.url).hostname not in ("127.0.0.1", "::1", "localhost")
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=_TIMEOUT, transport=transport, trust_env=outside
        )

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, request: Mapping[str, Any], pictures: Sequence[Picture] = ()) -> Json:
        """Submit a job; repeating it after a lost answer gives the same job."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        parts: list[tuple[str, Any]] = [("request", (None, json.dumps(dict(request)), "application/json"))]
        parts += [("image", (picture.name, picture.data)) for picture in pictures]
        job: Json = self._patiently(lambda: self._send("POST", "/v1/jobs", files=parts, headers=headers).json())
        return job

    def get(self, path: str, **query: Any) -> Json:
        """Read something."""
        answer: Json = self._patiently(lambda: self._send("GET", path, params=query).json())
        return answer

    def read(self, path: str, **query: Any) -> bytes:
        """Read something that is not JSON."""
        return self._patiently(lambda: self._send("GET", path, params=query).content)

    def post(self, path: str, body: Any = None) -> Json:
        """Do something that may be repeated."""
        answer: Json = self._patiently(lambda: self._send("POST", path, json=body).json())
        return answer

    def job(self, id: str) -> Json:
        """A job as it is now."""
        return self.get(f"/v1/jobs/{id}")

    def wait(self, id: str, timeout: float | None = None) -> Json:
        """The job once it ended, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while True:
            left = max(0.0, deadline - time.monotonic()) if deadline is not None else _WAIT
            job = self.get(f"/v1/jobs/{id}", wait=round(min(left, _WAIT), 3))
            if job["state"] in ENDED or (deadline is not None and time.monotonic() >= deadline):
                return job

    def pages(self, path: str, limit: int, **query: Any) -> Iterator[Json]:
        """Up to `limit` entries of a listing, page by page."""
        after: str | None = None
        while limit > 0:
            page = self.get(path, limit=min(limit, 100), **query, **({"after": after} if after else {}))
            yield from page["data"][:limit]
            limit -= len(page["data"])
            after = page["next"]
            if not after:
                return

    def follow(self, id: str) -> Iterator[Happened]:
        """Yield what happens to a job until it ends; the last is `end`. Survives broken connections."""
        last_id, tries, since = "", 0, time.monotonic()
        while True:
            try:
                for event in self._events(id, last_id):
                    last_id, tries, since = event.id, 0, time.monotonic()
                    yield Happened(event.name, json.loads(event.data))
                    if event.name == "end":
                        return
                error: Refused | Unreachable = Unreachable(
                    f"{self.url} closed the event stream of {id} again and again"
                )
            except Unreachable as broken:
                error = broken
            except Refused as refused:
                if refused.http_status not in (429, 503):
                    raise
                yield Happened("end", self.wait(id))  # no room for another stream: polling always works
                return
            if time.monotonic() - since > self._patience:
                raise error
            time.sleep(_pause(tries))
            tries += 1

    def _events(self, id: str, last_id: str) -> Iterator[sse.Event]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        try:
            with self._http.stream("GET", f"/v1/jobs/{id}/events", headers=headers) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _refusal(answer)
                yield from sse.parse(answer.iter_bytes(), last_id)
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from error

    def _send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **rest)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(self.url, error) from error
        self._met = True
        if answer.is_success:
            return answer
        raise _refusal(answer)

    def _patiently(self, act: Callable[[], T]) -> T:
        """Do it again while the service is away or asks for a moment; never longer than the patience."""
        deadline = time.monotonic() + self._patience
        for tries in range(1_000):
            try:
                return act()
            except Unreachable as error:
                pause = _pause(tries)
                # A service that was never there is not waited for: most likely it was not started.
                never_there = not (self._met or error.connected)
                if never_there or time.monotonic() + pause > deadline:
                    raise
            except Refused as refused:
                pause = max(_pause(tries), refused.retry_after or 0)
                if not refused.retryable or refused.code == "job_not_ended" or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
        raise AssertionError("unreachable")


def _pause(tries: int) -> float:
    return min(_PAUSE_MOST, _PAUSE_FIRST * 2.0 ** min(tries, 10))


def _refusal(answer: httpx.Response) -> Refused:
    problem: object = None
    with suppress(ValueError):
        problem = answer.json()
    if not isinstance(problem, dict) or "code" not in problem:
        problem = {"detail": f"answered {answer.status_code} {answer.reason_phrase}; is this a tileq service?"}
    retry_after = answer.headers.get("retry-after", "")
    return Refused(answer.status_code, problem, float(retry_after) if retry_after.isdigit() else None)


def _unreachable(url: str, error: Exception) -> Unreachable:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL | httpx.UnsupportedProtocol):
        said = f"no service answers at {url} ({error}); start one with `tileq up`, or set TILEQ_URL"
        return Unreachable(said, connected=False)
    return Unreachable(f"{url} did not answer: {error or type(error).__name__}")
