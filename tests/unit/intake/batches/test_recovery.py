"""Redis is lost with its disk in the middle of a batch, and the reconciler restores it from the object storage."""

from collections import Counter
from collections.abc import Iterator

import pytest

from shared.store import transitions
from tests.unit.intake.app_fixture import App, running_app
from tests.unit.intake.batches.steps import content, created, ended, line, seen, step, worked
from tests.unit.reconciler.test_reconcile import RecordedHints
from workers.reconciler.recover import recover


@pytest.fixture
def app() -> Iterator[App]:
    with running_app(batch_queued=12) as opened:
        yield opened


def lose_the_store(app: App) -> None:
    """Delete every record, and restore what can be restored."""
    app.store.client.flushall()
    recover(app.store, app.objects, RecordedHints())


def half_answered(app: App, answered: Counter[str]) -> str:
    """Return a batch of 20 lines: 12 are jobs, and 5 of these answered."""
    id = created(app, [line(n) for n in range(20)])
    worked(app, id, lambda body: body["tileq"]["lines_read"] == 12, answers=False)
    for _ in range(5):
        answer(app, answered)
    return id


def answer(app: App, answered: Counter[str]) -> bool:
    job = app.store.run(transitions.claim("tileq-demo", "w", 60)).value
    if job is None:
        return False
    answered[job.custom_id] += 1
    app.succeed(job)
    return True


def test_no_line_is_asked_twice_and_none_is_left_out(app: App) -> None:
    answered = Counter[str]()
    id = half_answered(app, answered)
    lose_the_store(app)
    for _ in range(50):
        app.store.client.zadd("tileq:batches_due", {id: 0}, xx=True)
        step(app)
        while answer(app, answered):
            pass
        if ended(body := seen(app, id)):
            break
    assert body["status"] == "completed"
    assert answered == Counter(f"line-{n}" for n in range(20))
    assert [one["custom_id"] for one in content(app, body["output_file_id"])] == [f"line-{n}" for n in range(20)]


def test_a_batch_that_was_being_cancelled_still_is(app: App) -> None:
    id = half_answered(app, Counter())
    app.http.post(f"/v1/batches/{id}/cancel")
    step(app)
    before = seen(app, id)
    lose_the_store(app)
    after = seen(app, id)
    assert after["status"] == "cancelling"
    assert after["cancelling_at"] == before["cancelling_at"]
    body = worked(app, id, ended, answers=False)
    assert body["status"] == "cancelled"
    assert body["request_counts"] == {"total": 20, "completed": 5, "failed": 15}


def test_a_batch_that_ended_is_as_it_was(app: App) -> None:
    id = created(app, [line(n) for n in range(3)])
    before = worked(app, id, ended)
    lose_the_store(app)
    assert seen(app, id) == before
