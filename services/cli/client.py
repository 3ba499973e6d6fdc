"""HTTP client of the API that retries what may be repeated.

It sends an `Idempotency-Key` with every submission, obeys `Retry-After`, and resumes a broken event stream by
`Last-Event-ID`.
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
from services.cli.errors import ApiError, ServiceUnreachable

Json = dict[str, Any]
T = TypeVar("T")

ENDED = ("succeeded", "failed", "cancelled", "expired")
_LONG_POLL_S = 30
#: The service sends a comment every 15 s, so a stream silent for 45 s is dead.
_TIMEOUT = httpx.Timeout(45, connect=5)
_FIRST_DELAY_S, _MAX_DELAY_S = 0.25, 5.0


@dataclass(frozen=True)
class ImageFile:
    """One image of a request."""

    name: str
    data: bytes


@dataclass(frozen=True)
class JobEvent:
    """An event of a job: the data of `state` and `end` is the job, of `delta` `{"text": …}`, of `reset` of no use."""

    kind: str
    data: Json


class ApiClient:
    """Client of the service at `url`. `retry_for`: seconds during which a failed request is repeated."""

    def __init__(
        self, url: str, key: str = "", *, retry_for: float = 30, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"User-Agent": "tileq-cli", **({"Authorization": f"Bearer {key}"} if key else {})}
        self.url = url.rstrip("/")
        self._retry_for = retry_for
        self._answered = False  # at least once
        # A proxy can't reach this machine's loopback.
        remote = urlsplit(self.url).hostname not in ("127.0.0.1", "::1", "localhost")
        self._http = httpx.Client(
            base_url=self.url, headers=headers, timeout=_TIMEOUT, transport=transport, trust_env=remote
        )

    def __enter__(self) -> "ApiClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, request: Mapping[str, Any], images: Sequence[ImageFile] = ()) -> Json:
        """Submit a job and return it. A repetition after a lost answer returns the same job."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        parts: list[tuple[str, Any]] = [("request", (None, json.dumps(dict(request)), "application/json"))]
        parts += [("image", (image.name, image.data)) for image in images]
        job: Json = self._with_retries(lambda: self._send("POST", "/v1/jobs", files=parts, headers=headers).json())
        return job

    def get(self, path: str, **query: Any) -> Json:
        """GET a JSON object."""
        answer: Json = self._with_retries(lambda: self._send("GET", path, params=query).json())
        return answer

    def read(self, path: str, **query: Any) -> bytes:
        """GET the bytes of a body that is not JSON."""
        return self._with_retries(lambda: self._send("GET", path, params=query).content)

    def post(self, path: str, body: Any = None) -> Json:
        """POST something that may be repeated; return the JSON object answered."""
        answer: Json = self._with_retries(lambda: self._send("POST", path, json=body).json())
        return answer

    def job(self, id: str) -> Json:
        """Return a job as it is now."""
        return self.get(f"/v1/jobs/{id}")

    def wait(self, id: str, timeout: float | None = None) -> Json:
        """Return the job once it ended, or as it is after `timeout` seconds."""
        deadline = time.monotonic() + timeout if timeout is not None else None
        while True:
            left = max(0.0, deadline - time.monotonic()) if deadline is not None else _LONG_POLL_S
            job = self.get(f"/v1/jobs/{id}", wait=round(min(left, _LONG_POLL_S), 3))
            if job["state"] in ENDED or (deadline is not None and time.monotonic() >= deadline):
                return job

    def pages(self, path: str, limit: int, **query: Any) -> Iterator[Json]:
        """Yield up to `limit` entries of a list, page by page."""
        after: str | None = None
        while limit > 0:
            page = self.get(path, limit=min(limit, 100), **query, **({"after": after} if after else {}))
            yield from page["data"][:limit]
            limit -= len(page["data"])
            after = page["next"]
            if not after:
                return

    def follow(self, id: str) -> Iterator[JobEvent]:
        """Yield the events of a job; the last is `end`. A broken stream is resumed for up to `retry_for` seconds."""
        last_id, tries, since = "", 0, time.monotonic()
        while True:
            try:
                for event in self._events(id, last_id):
                    last_id, tries, since = event.id, 0, time.monotonic()
                    yield JobEvent(event.name, json.loads(event.data))
                    if event.name == "end":
                        return
                error: ApiError | ServiceUnreachable = ServiceUnreachable(
                    f"{self.url} keeps closing the event stream of {id} without an event"
                )
            except ServiceUnreachable as broken:
                error = broken
            except ApiError as refused:
                if refused.http_status not in (429, 503):
                    raise
                yield JobEvent("end", self.wait(id))  # the service holds its maximum of streams: polling works
                return
            if time.monotonic() - since > self._retry_for:
                raise error
            time.sleep(_delay(tries))
            tries += 1

    def _events(self, id: str, last_id: str) -> Iterator[sse.Event]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last_id} if last_id else {})}
        try:
            with self._http.stream("GET", f"/v1/jobs/{id}/events", headers=headers) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise _api_error(answer)
                yield from sse.parse(answer.iter_bytes(), last_id)
        except httpx.HTTPError as error:
            raise _unreachable(self.url, error) from error

    def _send(self, method: str, path: str, **rest: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **rest)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unreachable(self.url, error) from error
        self._answered = True
        if answer.is_success:
            return answer
        raise _api_error(answer)

    def _with_retries(self, act: Callable[[], T]) -> T:
        """Call `act`; repeat it while the service is away or asks to wait, for up to `retry_for` seconds."""
        deadline = time.monotonic() + self._retry_for
        for tries in range(1_000):
            try:
                return act()
            except ServiceUnreachable as error:
                delay = _delay(tries)
                # A service that never answered was most likely not started: fail at once.
                never_there = not (self._answered or error.connected)
                if never_there or time.monotonic() + delay > deadline:
                    raise
            except ApiError as refused:
                delay = max(_delay(tries), refused.retry_after or 0)
                if not refused.retryable or refused.code == "job_not_ended" or time.monotonic() + delay > deadline:
                    raise
            time.sleep(delay)
        raise AssertionError("unreachable")


def _delay(tries: int) -> float:
    return min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(tries, 10))


def _api_error(answer: httpx.Response) -> ApiError:
    problem: object = None
    with suppress(ValueError):
        problem = answer.json()
    if not isinstance(problem, dict) or "code" not in problem:
        problem = {"detail": f"answered {answer.status_code} {answer.reason_phrase}; is this a tileq service?"}
    retry_after = answer.headers.get("retry-after", "")
    return ApiError(answer.status_code, problem, float(retry_after) if retry_after.isdigit() else None)


def _unreachable(url: str, error: Exception) -> ServiceUnreachable:
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL | httpx.UnsupportedProtocol):
        message = f"no service answers at {url} ({error}); start one with `tileq up`, or set TILEQ_URL"
        return ServiceUnreachable(message, connected=False)
    return ServiceUnreachable(f"{url} did not answer: {error or type(error).__name__}")
