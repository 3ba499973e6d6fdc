"""The process of batches dies before one of its calls to the store or the object storage, and the next one goes on."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from itertools import count
from typing import Any

import pytest

from services.intake.batches import assemble, expand
from services.intake.batches.worker import BatchWorker
from shared.store import batches, transitions
from tests.unit.intake.app_fixture import App, running_app
from tests.unit.intake.batches.steps import RESPONSES, content, created, line, seen

LINES = 5
#: Names a response that does not exist: it becomes no job.
UNPREPARED = line(LINES, RESPONSES, body={"input": "?", "previous_response_id": f"resp_{'0' * 36}"})


class Death(BaseException):
    """The process ends here."""


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    for module in (expand, assemble):
        monkeypatch.setattr(module, "LINES_AT_ONCE", 3)
    with running_app(webhook_allow="127.0.0.0/8") as opened:
        yield opened


class Calls:
    """Counts the calls of the process of batches, and ends it before the call `last`."""

    def __init__(self, last: int) -> None:
        self.last, self.made = last, 0
        self.counted = ContextVar("counted", default=False)  #: in the tasks of that process, not in intake's

    def __call__(self) -> None:
        """Note that a call begins. Raises `Death`."""
        if self.counted.get():
            self.made += 1
            if self.made == self.last:
                raise Death


def watch(app: App, calls: Calls, patch: pytest.MonkeyPatch) -> None:
    """Let `calls` see every call to the store and the object storage."""
    run, storage = app.context.store.run, app.context.storage.run

    async def counted_run(command: Any) -> Any:
        calls()
        return await run(command)

    async def counted_storage(act: Callable[[], Any], size: int) -> Any:
        calls()
        return await storage(act, size)

    patch.setattr(app.context.store, "run", counted_run)
    patch.setattr(app.context.storage, "run", counted_storage)


async def step(app: App, calls: Calls) -> None:
    """Let a fresh process do one step; if it dies, nothing of it goes on."""
    calls.counted.set(True)
    stop = asyncio.Event()
    with suppress(Death):
        await BatchWorker(app.context)._work_on_next(stop)
    stop.set()


def work(app: App, id: str, calls: Calls, between: Callable[[], None]) -> None:
    """Do steps until the batch has ended; whoever dies leaves it to the next once the lease of its claim is over."""
    for _ in range(30):
        app.store.client.zadd("tileq:batches_due", {id: 0}, xx=True)
        app.call(step, app, calls)
        between()
        found = app.store.run(batches.get("", id, 0, 0))
        if found and found[0].ended:
            return
    raise AssertionError(found)


def lines_of(app: App, body: dict[str, Any]) -> Counter[str]:
    """How often each line stands in the files of a batch."""
    return Counter(one["custom_id"] for file in ("output", "error") for one in content(app, body[f"{file}_file_id"]))


@pytest.mark.parametrize("cancelled", [False, True])
def test_every_line_ends_in_one_file_once_whenever_a_process_dies(
    app: App, monkeypatch: pytest.MonkeyPatch, cancelled: bool
) -> None:
    for last in count(1):
        calls, answered = Calls(last), Counter[str]()
        lines = [*(line(n, RESPONSES) for n in range(LINES)), UNPREPARED]
        id = created(app, lines, endpoint=RESPONSES, tileq={"webhook": {"url": "http://127.0.0.1:8009/"}})

        def between(id: str = id, answered: Counter[str] = answered) -> None:
            while job := app.store.run(transitions.claim("tileq-demo", "w", 60)).value:
                answered[job.custom_id] += 1
                app.succeed(job)
                if cancelled:
                    app.store.run(batches.cancel("local", id))
                    return

        with monkeypatch.context() as patch:
            watch(app, calls, patch)
            work(app, id, calls, between)
        body = seen(app, id)
        assert body["status"] == ("cancelled" if cancelled else "completed"), last
        assert lines_of(app, body) == Counter(f"line-{n}" for n in range(LINES + 1)), last
        assert set(answered.values()) == {1}, last
        assert body["request_counts"]["completed"] == len(answered), last
        assert len(app.store.client.lrange(f"tileq:batch:{id}:hooks", 0, -1)) == 1, last
        if calls.made < last:
            return
