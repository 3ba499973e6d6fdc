"""A batch of a file, from the upload to the files of its answers, by the steps of the process of batches."""

import json
from collections.abc import Iterator

import pytest

from services.intake.batches.worker import BatchWorker
from shared.batches import line_job_id
from shared.store import batches, transitions
from tests.unit.intake.app_fixture import App, running_app
from tests.unit.intake.batches.steps import CHAT, RESPONSES, content, created, ended, line, seen, step, upload, worked
from tests.unit.intake.test_auth import bearer, make_key


@pytest.fixture
def app() -> Iterator[App]:
    with running_app(batch_queued=40) as opened:
        yield opened


@pytest.mark.parametrize("endpoint", [CHAT, RESPONSES])
def test_every_line_is_answered_once_in_the_order_of_the_file(app: App, endpoint: str) -> None:
    id = created(app, [line(n, endpoint) for n in range(100)], endpoint=endpoint)
    body = worked(app, id, ended)
    assert body["status"] == "completed"
    assert body["request_counts"] == {"total": 100, "completed": 100, "failed": 0}
    answers = content(app, body["output_file_id"])
    assert [one["custom_id"] for one in answers] == [f"line-{n}" for n in range(100)]
    assert body["error_file_id"] is None
    first = answers[0]["response"]
    assert first["status_code"] == 200
    assert "It is line-0." in json.dumps(first["body"])


def test_a_window_that_is_none_is_refused_in_words(app: App) -> None:
    asked = {"input_file_id": upload(app, [line(0)]), "endpoint": CHAT}
    for window in ("0s", "1 day", "24", 24):
        error = app.http.post("/v1/batches", json=asked | {"completion_window": window}).json()["error"]
        assert error["param"] == "completion_window"
        assert error["message"].endswith("must be a whole number and a unit, `s`, `m`, `h` or `d`: `24h`")


def test_lines_wait_in_their_file_while_the_queue_has_no_room(app: App) -> None:
    id = created(app, [line(n) for n in range(100)])
    body = worked(app, id, lambda body: body["status"] == "in_progress", answers=False)
    for _ in range(5):
        app.store.client.zadd("tileq:batches_due", {id: 0})
        step(app)
    body = seen(app, id)
    assert (body["tileq"]["queued"], body["tileq"]["lines_read"]) == (40, 40)


def test_an_invalid_line_refuses_the_batch_with_its_number(app: App) -> None:
    lines = [
        line(0),
        "no json",
        line(0),
        line(3, method="GET"),
        line(4, RESPONSES),
        line(5, body={"messages": [], "temperature": 7}),
        line(6, body={"messages": [{"role": "user", "content": "?"}], "stream": True}),
    ]
    body = worked(app, created(app, lines), ended)
    assert body["status"] == "failed"
    assert [(one["line"], one["code"], one["param"]) for one in body["errors"]["data"]] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "invalid_method", "method"),
        (5, "mismatched_endpoint", "url"),
        (6, "invalid_field", "body.temperature"),
        (7, "unsupported_parameter", "body.stream"),
    ]


def test_no_line_and_no_batch_goes_above_the_highest_priority_of_its_key(app: App) -> None:
    key = bearer(make_key(app, "local", max_priority="normal"))
    lines = [line(0), line(1, body=line(1)["body"] | {"tileq": {"priority": "high"}})]
    asked = {"input_file_id": upload(app, lines), "endpoint": CHAT, "completion_window": "24h"}
    refused = app.http.post("/v1/batches", json=asked | {"tileq": {"priority": "high"}}, headers=key)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tileq.priority")
    id = app.http.post("/v1/batches", json=asked, headers=key).json()["id"]
    for _ in range(2):
        step(app)
    body = app.http.get(f"/v1/batches/{id}", headers=key).json()
    assert [(one["line"], one["param"]) for one in body["errors"]["data"]] == [(2, "body.tileq.priority")]


def test_a_cancelled_batch_keeps_its_answers_and_names_every_other_line(app: App) -> None:
    id = created(app, [line(n) for n in range(60)])
    worked(app, id, lambda body: body["tileq"]["lines_read"] > 0, answers=False)
    for _ in range(5):
        app.succeed(app.claim())
    assert app.http.post(f"/v1/batches/{id}/cancel").json()["status"] == "cancelling"
    body = worked(app, id, ended, answers=False)
    assert body["status"] == "cancelled"
    answers, errors = content(app, body["output_file_id"]), content(app, body["error_file_id"])
    assert len(answers) == 5
    assert {one["error"]["code"] for one in errors} == {"batch_cancelled"}
    assert sorted(one["custom_id"] for one in answers + errors) == sorted(f"line-{n}" for n in range(60))
    assert body["request_counts"] == {"total": 60, "completed": 5, "failed": 55}


def test_a_batch_expires_with_its_window(app: App) -> None:
    id = created(app, [line(n) for n in range(60)])
    worked(app, id, lambda body: body["tileq"]["lines_read"] > 0, answers=False)
    app.succeed(app.claim())
    app.store.client.hset(f"tileq:batch:{id}", "deadline", "1")
    body = worked(app, id, ended, answers=False)
    assert body["status"] == "expired"
    errors = content(app, body["error_file_id"])
    assert {one["error"]["code"] for one in errors} == {"batch_expired"}
    assert len(errors) == 59


def test_a_batch_whose_file_was_deleted_fails_and_keeps_its_answers(app: App) -> None:
    id = created(app, [line(n) for n in range(60)])
    worked(app, id, lambda body: body["tileq"]["lines_read"] > 0, answers=False)
    for _ in range(15):  # there is room for further lines
        app.succeed(app.claim())
    assert app.http.delete(f"/v1/files/{seen(app, id)['input_file_id']}").status_code == 200
    body = worked(app, id, ended, answers=False)
    assert (body["status"], body["errors"]["data"][0]["code"]) == ("failed", "input_file_missing")
    assert [one["custom_id"] for one in content(app, body["output_file_id"])] == [f"line-{n}" for n in range(15)]
    assert len(content(app, body["error_file_id"])) == 25  # the other jobs: of the rest nothing is known any more


def test_an_older_claim_queues_nothing(app: App) -> None:
    id = created(app, [line(n) for n in range(10)])
    worked(app, id, lambda body: body["status"] == "in_progress", answers=False)
    app.store.client.zadd("tileq:batches_due", {id: 0})
    old, _ = app.store.run(batches.claim(0))
    app.store.client.zadd("tileq:batches_due", {id: 0})
    app.store.run(batches.claim(60))
    assert old is not None
    assert old.file is not None
    left = app.call(BatchWorker(app.context)._expand, old, old.file, 3600.0)
    assert left == 0
    assert seen(app, id)["tileq"]["lines_read"] == 0
    assert not app.store.run(transitions.read_jobs([line_job_id(id, 1)]))


def test_a_file_of_text_in_place_of_an_image_is_a_refused_value_as_the_call_itself_says(app: App) -> None:
    image = {"type": "input_image", "file_id": upload(app, ["no image"], "user_data")}
    body = {"input": [{"role": "user", "content": [image]}]}
    called = app.http.post(RESPONSES, json=body)
    done = worked(app, created(app, [line(0, RESPONSES, body=body)], endpoint=RESPONSES), ended)
    [refused] = content(app, done["error_file_id"])
    assert (refused["response"]["status_code"], called.status_code) == (400, 400)
    codes = [body["error"]["code"] for body in (refused["response"]["body"], called.json())]
    assert codes == ["unsupported_image_type"] * 2


def test_a_webhook_that_may_not_be_called_is_named_by_its_parameter(app: App) -> None:
    asked = {"input_file_id": upload(app, [line(0)]), "endpoint": CHAT, "completion_window": "24h"}
    answer = app.http.post("/v1/batches", json=asked | {"tileq": {"webhook": {"url": "http://10.0.0.1/"}}})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "webhook_refused", "tileq.webhook.url")


def test_the_results_of_a_batch_are_empty_where_no_line_became_a_job(app: App) -> None:
    id = created(app, [line(0)])
    app.http.post(f"/v1/batches/{id}/cancel")
    assert worked(app, id, ended)["status"] == "cancelled"
    answer = app.http.get(f"/v1/batches/{id}/results")
    assert (answer.status_code, answer.content, answer.headers["content-type"]) == (200, b"", "application/jsonl")


def test_a_line_that_can_not_be_prepared_stands_in_the_error_file(app: App) -> None:
    lost = line(1, RESPONSES, body={"input": "?", "previous_response_id": f"resp_{'0' * 36}"})
    body = worked(app, created(app, [line(0, RESPONSES), lost], endpoint=RESPONSES), ended)
    assert body["status"] == "completed"
    assert [one["custom_id"] for one in content(app, body["output_file_id"])] == ["line-0"]
    (refused,) = content(app, body["error_file_id"])
    assert (refused["custom_id"], refused["response"]["status_code"]) == ("line-1", 400)
    assert refused["response"]["body"]["error"]["param"] == "body.previous_response_id"


def test_lines_stand_behind_other_jobs(app: App) -> None:
    id = created(app, [line(0)])
    worked(app, id, lambda body: body["tileq"]["lines_read"] > 0, answers=False)
    low = app.accepted(priority="low")
    assert app.claim().id == low
    assert app.claim().batch == id


def test_the_earliest_deadline_goes_first(app: App) -> None:
    late, soon = created(app, [line(0)]), created(app, [line(0)], completion_window="1h")
    for id in (late, soon):
        worked(app, id, lambda body: body["tileq"]["lines_read"] > 0, answers=False)
    assert [app.claim().batch, app.claim().batch] == [soon, late]
