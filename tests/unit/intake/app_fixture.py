"""A whole intake over doubles: the store's scripts on an emulated server, objects in a dict, hints in a list."""

import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import fakeredis
from starlette.testclient import TestClient

from services.intake.app import build_app, build_context
from services.intake.context import AppContext
from shared.deliveries import DeliveryOutcome
from shared.events import TextDelta, stream_key
from shared.jobs import Job, State
from shared.settings.roles import Settings
from shared.storage import MemoryStorage, result_key, view_key
from shared.store import deliveries, transitions
from shared.store.client import AsyncStore, Store
from tests.results import stored_result
from tests.unit.intake.image_files import picture
from tests.waiting import eventually

T = TypeVar("T")

PREFIX = "tileq:"
SETTINGS: dict[str, Any] = {"redis_timeout": 2.0, "key_cache": 0.0, "body_timeout": 2.0}
USAGE = stored_result().usage.model_dump()


class Answer(Protocol):
    """An HTTP answer; starlette's client brings an httpx of its own."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...
    @property
    def text(self) -> str: ...
    def json(self) -> Any: ...


class Hints:
    """Hints as they were published."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, ...]] = []
        self.down = ""  #: why the broker takes nothing

    def job(self, model: str, job: str, *, unless_waiting: int = 0) -> bool:
        """See `Publisher`."""
        self.sent.append(("job", model, job))
        return True

    def deliveries(self, *messages: str) -> bool:
        """See `Publisher`."""
        self.sent.append(("deliveries", *messages))
        return True

    def check(self) -> None:
        """See `Publisher`."""
        if self.down:
            raise ConnectionError(self.down)


@dataclass
class App:
    """One service, its client, and what workers would do."""

    http: TestClient
    context: AppContext
    store: Store
    objects: MemoryStorage
    hints: Hints
    server: fakeredis.FakeServer
    settings: Settings
    submitted: list[str] = field(default_factory=list)

    def call(self, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """Run a coroutine function on the event loop of the service."""
        assert self.http.portal
        return self.http.portal.call(function, *arguments)

    def submit(
        self, prompt: str = "What is this?", *images: bytes, headers: Mapping[str, str] | None = None, **asked: Any
    ) -> Answer:
        """Post a job: a form with a `request` part where there are images, JSON otherwise."""
        asked = ({} if "messages" in asked else {"prompt": prompt}) | asked
        if images:
            files: list[Any] = [("request", ("", json.dumps(asked), "application/json"))]
            files += [("image", ("a.bin", image, "application/octet-stream")) for image in images]
            return self.http.post("/v1/jobs", files=files, headers=headers)
        return self.http.post("/v1/jobs", json=asked, headers=headers)

    def accepted(self, *images: bytes, **asked: Any) -> str:
        """Post a job that is accepted; return its id."""
        answer = self.submit("What is this?", *images, **asked)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, id: str) -> Job:
        """The record."""
        found = self.store.run(transitions.read_job("", id))
        assert found is not None
        return found

    def claim(self, model: str = "tileq-demo") -> Job:
        """Claim the next job, as a worker does."""
        job = self.store.run(transitions.claim(model, "worker", 60)).value
        assert job is not None
        return job

    def stream(self, job: Job, offset: int, text: str) -> None:
        """Stream a piece of text."""
        fields: Any = TextDelta(job.attempt, offset, text).fields()
        self.store.client.xadd(stream_key(PREFIX, job.id), fields)

    def succeed(self, job: Job, text: str = "A sign.", *, inline: bool = True) -> None:
        """End a claimed job with an answer."""
        key, result = result_key(job.id, job.attempt), stored_result(text, job.attempt)
        self.objects.put(key, result.to_bytes(), "application/json")
        fields = result.job_fields(key) | ({} if inline else {"output": None})
        self.store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, fields))

    def finish_at_length(self, job: Job, text: str) -> None:
        """End a claimed job with an answer that was cut."""
        key, result = result_key(job.id, job.attempt), stored_result(text, job.attempt, finish_reason="length")
        self.objects.put(key, result.to_bytes(), "application/json")
        self.store.run(transitions.finish(job.id, job.attempt, State.SUCCEEDED, result.job_fields(key)))

    def release(self, job: Job) -> None:
        """Give a claimed job back, as a worker that shuts down does."""
        self.store.run(transitions.release(job.id, job.attempt))

    def fail(self, job: Job, code: str = "undecodable_image") -> None:
        """End a claimed job without one."""
        image = 0 if code == "undecodable_image" else None
        error = {"code": code, "message": "it can't be decoded", "retryable": False, "image": image}
        self.store.run(transitions.finish(job.id, job.attempt, State.FAILED, {"error": error}))

    def answered(self, text: str = "A sign.", *images: bytes, **asked: Any) -> str:
        """Post a job and end it with an answer; return its id."""
        id = self.accepted(*images, **asked)
        self.succeed(self.claim(), text)
        return id

    def tile(self, id: str) -> None:
        """Store what the model sees."""
        self.objects.put(view_key(id, 0), picture("PNG"), "image/png")

    def deliver(self, outcome: DeliveryOutcome = "delivered", status: int = 200) -> str:
        """Deliver the next due message, as a webhook worker does; return its id."""
        one = self.store.run(deliveries.claim("", 30, 8))
        assert one is not None
        attempt = {
            "at": "2026-11-23T20:15:00.123Z",
            "status": status,
            "seconds": 0.1,
            "error": None,
            "body": "ok",
            "next_at": None,
        }
        self.store.run(deliveries.finish(one.msg, one.fence, outcome, delay=5, attempt=attempt, healthy=status < 400))
        return one.msg


def problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Hold an answer to the shape of every refusal; return its body."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code", "retryable", "request_id"} <= set(body)
    assert body["status"] == status
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"]
    return body


def events(answer: Answer) -> list[tuple[str, str, Any]]:
    """The (name, id, data) of a finished event stream."""
    found = []
    for block in answer.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "event" in lines:
            found.append((lines["event"], lines["id"], json.loads(lines["data"])))
    return found


def once_waiting(app: "App", act: Any) -> threading.Thread:
    """Do something as soon as a request waits for its job or message."""

    def later() -> None:
        eventually(lambda: app.context.changes.waiting)
        act()

    thread = threading.Thread(target=later)
    thread.start()
    return thread


class Emulated(fakeredis.FakeAsyncRedis):
    """The emulated server, with the two commands that it lacks."""

    aof = True

    async def info(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return what tells of durability."""
        return {"aof_enabled": int(self.aof), "valkey_version": "9.1.2"}

    async def config_get(self, *_: Any, **__: Any) -> dict[str | None, str | None]:
        """Return what tells of durability."""
        return {"appendfsync": "always"}


@contextmanager
def running_app(
    objects: MemoryStorage | None = None, *, client: str = "127.0.0.1", aof: bool = True, **settings: Any
) -> Iterator[App]:
    """Run a service with these settings while the block runs."""
    chosen = Settings(**(SETTINGS | settings))
    server = fakeredis.FakeServer(server_type="valkey")
    sync = fakeredis.FakeRedis(server=server, decode_responses=True)
    client_ = Emulated(server=server, decode_responses=True, max_connections=1000)
    store = AsyncStore(client_, PREFIX, timeout_s=chosen.redis_timeout)
    store.client.aof = aof  # type: ignore[attr-defined]
    hints, objects = Hints(), objects or MemoryStorage()
    context = build_context(chosen, store, objects, hints, poll_s=0.05)
    with TestClient(build_app(context), "http://127.0.0.1", client=(client, 50_000)) as http:
        yield App(http, context, Store(sync, PREFIX), objects, hints, server, chosen)
