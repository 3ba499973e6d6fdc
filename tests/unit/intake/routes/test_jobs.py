"""Telling of jobs, and ending them."""

from collections.abc import Callable
from typing import Any

import pytest

from shared.ended import newest_groups, open_line, read_group
from shared.errors import StorageDown
from shared.jobs import State
from shared.request_archive import read_manifest
from shared.storage import MemoryStorage, archive_key, job_prefix, result_key
from shared.store import transitions
from shared.store.stats import get_stats
from shared.views import JobBody
from tests.unit.intake.app_fixture import USAGE, App, once_waiting, problem, running_app
from tests.unit.intake.image_files import picture

NOWHERE = "job_" + "0" * 36
PNG = picture("PNG", (900, 500))


def lost(intake: App) -> str:
    """Answer a job at length and lose its result object; return its id."""
    id = intake.accepted()
    intake.succeed(intake.claim(), inline=False)
    intake.objects.delete(result_key(id, 1))
    return id


class TestReading:
    """`GET /v1/jobs/{id}`."""

    def test_a_queued_job_has_a_place_and_a_hint(self, intake: App) -> None:
        first, second = intake.accepted(), intake.accepted()
        answer = intake.http.get(f"/v1/jobs/{second}")
        assert answer.json()["queue_position"] == 1
        assert answer.headers["retry-after"] == "1"
        assert intake.http.get(f"/v1/jobs/{first}").json()["progress"] is None

    def test_an_ended_job_has_none(self, intake: App) -> None:
        id = intake.answered("A sign.", PNG)
        answer = intake.http.get(f"/v1/jobs/{id}")
        body = answer.json()
        assert "retry-after" not in answer.headers
        assert (body["state"], body["output"]) == ("succeeded", {"text": "A sign.", "finish_reason": "stop"})
        assert (body["usage"], body["timings"]["total"], body["queue_position"]) == (USAGE, 1.5, None)

    def test_a_long_output_is_fetched(self, intake: App) -> None:
        id = intake.accepted()
        intake.succeed(intake.claim(), "long " * 5000, inline=False)
        assert intake.http.get(f"/v1/jobs/{id}").json()["output"]["text"] == "long " * 5000
        assert intake.http.get(f"/v1/jobs/{id}/result").json()["text"] == "long " * 5000

    def test_a_lost_result_has_one_final_code_everywhere(self, intake: App) -> None:
        id = lost(intake)
        for path in ("", "/result"):
            body = problem(intake.http.get(f"/v1/jobs/{id}{path}"), 410, "result_lost")
            assert (body["retryable"], "retry the job" in body["detail"]) == (False, True)
        paths = intake.http.get("/openapi.json").json()["paths"]
        for path in ("/v1/jobs/{id}", "/v1/jobs/{id}/result"):
            assert "`result_lost`" in paths[path]["get"]["responses"]["410"]["description"]
        problem(intake.submit("?", parent=id), 422, "unknown_parent")

    @pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING, State.SUCCEEDED, State.FAILED, State.CANCELLED])
    def test_every_state_has_the_documented_shape(self, intake: App, state: State) -> None:
        id = intake.accepted(PNG, metadata={"order": "4711"}, webhook={"url": "http://127.0.0.1:9009/"})
        if state is State.CANCELLED:
            intake.http.post(f"/v1/jobs/{id}/cancel")
        elif state is not State.QUEUED:
            job = intake.claim()
            if state is not State.RUNNING:
                (intake.succeed if state is State.SUCCEEDED else intake.fail)(job)
        body = intake.http.get(f"/v1/jobs/{id}").json()
        assert body["state"] == state
        assert JobBody.model_validate(body, strict=True).metadata == {"order": "4711"}

    @pytest.mark.parametrize(
        "id", [NOWHERE, "job_x", "x", "%00", "..%2f..", "JOB_" + "0" * 36, "j" * 10_000, "é", "job_" + "0" * 35 + "*"]
    )
    def test_what_is_no_id_is_not_found(self, intake: App, id: str) -> None:
        problem(intake.http.get(f"/v1/jobs/{id}"), 404, "not_found")


class TestWaiting:
    """`?wait=N`."""

    def test_it_answers_at_the_end(self, intake: App) -> None:
        id = intake.accepted()
        worker = once_waiting(intake, lambda: intake.succeed(intake.claim(), "Done."))
        body = intake.http.get(f"/v1/jobs/{id}?wait=20").json()
        worker.join()
        assert body["output"]["text"] == "Done."

    def test_or_after_that_time(self, intake: App) -> None:
        answer = intake.http.get(f"/v1/jobs/{intake.accepted()}?wait=0.2")
        assert (answer.json()["state"], answer.headers["retry-after"]) == ("queued", "1")

    @pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "soon", ""])
    def test_what_is_no_time_is_refused(self, intake: App, wait: str) -> None:
        assert (
            problem(intake.http.get(f"/v1/jobs/{intake.accepted()}?wait={wait}"), 422, "invalid_field")["field"]
            == "wait"
        )

    def test_a_shutdown_lets_go(self, intake: App) -> None:
        id = intake.accepted()
        closer = once_waiting(intake, lambda: intake.http.portal.call(intake.context.changes.close))  # type: ignore[union-attr]
        assert intake.http.get(f"/v1/jobs/{id}?wait=30").json()["state"] == "queued"
        closer.join()


class TestListing:
    """`GET /v1/jobs`."""

    def test_a_list_reads_no_object_and_says_what_it_leaves_out(self) -> None:
        class Unreadable(MemoryStorage):
            def get(self, key: str, size: int | None = None) -> bytes:
                raise StorageDown("the object storage did not answer GET")

        with running_app(Unreadable()) as intake:
            ids = [intake.answered("Short."), lost(intake), intake.accepted()]
            jobs = {job["id"]: job for job in intake.http.get("/v1/jobs").json()["data"]}
            assert [jobs[id]["output_omitted"] for id in ids] == [False, True, False]
            assert [jobs[id]["output"] and jobs[id]["output"]["text"] for id in ids] == ["Short.", None, None]

    def test_newest_first_in_pages(self, intake: App) -> None:
        ids = [intake.accepted() for _ in range(5)]
        first = intake.http.get("/v1/jobs?limit=3").json()
        assert [job["id"] for job in first["data"]] == ids[:1:-1]
        rest = intake.http.get("/v1/jobs", params={"limit": 3, "after": first["next"]}).json()
        assert ([job["id"] for job in rest["data"]], rest["next"]) == (ids[1::-1], None)

    def test_by_state_and_metadata(self, intake: App) -> None:
        intake.answered(metadata={"order": "1"})
        two, three = intake.accepted(metadata={"order": "2", "a.b": "c d"}), intake.accepted(metadata={"order": "2"})
        assert [job["id"] for job in intake.http.get("/v1/jobs?state=queued").json()["data"]] == [three, two]
        assert [job["id"] for job in intake.http.get("/v1/jobs?metadata.order=2").json()["data"]] == [three, two]
        assert [job["id"] for job in intake.http.get("/v1/jobs?metadata.order=2&metadata.a.b=c+d").json()["data"]] == [
            two
        ]
        assert intake.http.get("/v1/jobs?metadata.order=3").json()["data"] == []

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("state=done", "state"),
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("after=x", "after"),
            ("batch=x", "batch"),
            ("sort=up", "sort"),
            ("metadata.=x", "metadata."),
        ],
    )
    def test_a_filter_that_is_none_is_refused(self, intake: App, query: str, field: str) -> None:
        assert problem(intake.http.get(f"/v1/jobs?{query}"), 422, "invalid_field")["field"] == field


class TestCancelling:
    """`POST /v1/jobs/{id}/cancel`."""

    def test_a_queued_job_ends_at_once(self, intake: App) -> None:
        id = intake.accepted(webhook={"url": "http://127.0.0.1:9009/"})
        answer = intake.http.post(f"/v1/jobs/{id}/cancel")
        assert (answer.status_code, answer.json()["outcome"], answer.json()["job"]["state"]) == (
            200,
            "cancelled",
            "cancelled",
        )
        intake.context.publisher.close()
        assert ("deliveries", f"msg_{id[4:]}_cancelled") in intake.hints.sent

    def test_the_end_of_a_job_that_was_said_to_be_cancelled_is_stored(self, intake: App) -> None:
        id = intake.accepted()
        intake.http.post(f"/v1/jobs/{id}/cancel")
        (group,) = newest_groups(intake.objects)
        line = read_group(intake.objects, group)[id]
        seal = read_manifest(intake.objects, id).record["seal"]
        assert open_line(line, seal)["state"] == State.CANCELLED
        assert intake.store.run(get_stats()).unarchived == 0

    def test_a_job_that_repeats_another_has_a_key_of_its_own(self, intake: App) -> None:
        first = intake.accepted()
        intake.http.post(f"/v1/jobs/{first}/cancel")
        again = intake.http.post(f"/v1/jobs/{first}/retry").json()["id"]
        assert intake.job(again).seal not in ("", intake.job(first).seal)

    def test_no_answer_shows_the_key_of_a_job(self, intake: App) -> None:
        id = intake.accepted()
        seal = intake.job(id).seal
        assert seal
        for path in (f"/v1/jobs/{id}", "/v1/jobs"):
            assert seal not in intake.http.get(path).text

    def test_an_end_that_the_storage_does_not_take_is_left_to_the_reconciler(
        self, intake: App, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def down(*_: object) -> None:
            raise StorageDown("down")

        id = intake.accepted()
        monkeypatch.setattr(intake.objects, "put", down)
        assert intake.http.post(f"/v1/jobs/{id}/cancel").json()["outcome"] == "cancelled"
        assert [*intake.store.run(transitions.list_unarchived())] == [id]

    def test_a_running_one_soon(self, intake: App) -> None:
        id = intake.accepted()
        intake.claim()
        assert intake.http.post(f"/v1/jobs/{id}/cancel").json()["outcome"] == "cancelling"
        assert intake.http.post(f"/v1/jobs/{id}/cancel").json()["outcome"] == "cancelling"

    def test_an_ended_one_stays(self, intake: App) -> None:
        body = intake.http.post(f"/v1/jobs/{intake.answered()}/cancel").json()
        assert (body["outcome"], body["job"]["state"]) == ("already_ended", "succeeded")

    def test_none_is_not_found(self, intake: App) -> None:
        problem(intake.http.post(f"/v1/jobs/{NOWHERE}/cancel"), 404, "not_found")


class TestRetrying:
    """`POST /v1/jobs/{id}/retry`."""

    def test_it_asks_the_same_as_a_new_job(self, intake: App) -> None:
        old = intake.accepted(PNG, metadata={"a": "b"}, webhook={"url": "http://127.0.0.1:9009/"}, priority="low")
        intake.fail(intake.claim())
        answer = intake.http.post(f"/v1/jobs/{old}/retry")
        body = answer.json()
        assert (answer.status_code, answer.headers["location"], body["retry_of"]) == (
            202,
            f"/v1/jobs/{body['id']}",
            old,
        )
        assert (body["metadata"], body["webhook"]["url"], body["images"][0]["width"]) == (
            {"a": "b"},
            "http://127.0.0.1:9009/",
            900,
        )
        intake.http.delete(f"/v1/jobs/{old}")
        assert intake.http.get(f"/v1/jobs/{body['id']}/images/0").content == PNG
        intake.succeed(intake.claim(), "This time.")
        assert intake.http.get(f"/v1/jobs/{body['id']}").json()["output"]["text"] == "This time."

    def test_not_before_the_end(self, intake: App) -> None:
        problem(intake.http.post(f"/v1/jobs/{intake.accepted()}/retry"), 409, "job_not_ended")

    def test_without_its_manifest_there_is_nothing_to_ask(self, intake: App) -> None:
        id = intake.answered()
        intake.objects.delete(job_prefix(id))
        problem(intake.http.post(f"/v1/jobs/{id}/retry"), 404, "not_found")


class TestDeleting:
    """`DELETE /v1/jobs/{id}`."""

    def test_record_and_objects_are_gone(self, intake: App) -> None:
        id = intake.accepted(PNG)
        job = intake.claim()
        intake.stream(job, 0, "A")
        intake.succeed(job)
        answer = intake.http.delete(f"/v1/jobs/{id}")
        assert (answer.status_code, answer.content) == (204, b"")
        problem(intake.http.get(f"/v1/jobs/{id}"), 404, "not_found")
        problem(intake.http.delete(f"/v1/jobs/{id}"), 404, "not_found")
        assert list(intake.objects.keys("")) == []
        assert intake.store.client.keys(f"*{id}*") == []
        assert intake.store.client.zcard("tileq:trash") == 0

    def test_not_before_the_end(self, intake: App) -> None:
        problem(intake.http.delete(f"/v1/jobs/{intake.accepted()}"), 409, "job_not_ended")


class TestResult:
    """`GET /v1/jobs/{id}/result`."""

    def test_the_answer_alone(self, intake: App) -> None:
        body = intake.http.get(f"/v1/jobs/{intake.answered('A sign.')}/result").json()
        assert body == {"text": "A sign.", "finish_reason": "stop", "usage": USAGE}

    def test_not_before_the_end(self, intake: App) -> None:
        answer = intake.http.get(f"/v1/jobs/{intake.accepted()}/result")
        assert problem(answer, 409, "job_not_ended")["retryable"] is True
        assert answer.headers["retry-after"] == "1"

    def test_a_failed_job_says_why(self, intake: App) -> None:
        id = intake.accepted(PNG)
        intake.fail(intake.claim())
        body = problem(intake.http.get(f"/v1/jobs/{id}/result"), 409, "job_failed")
        assert (body["image"], body["errors"][0]["code"]) == (0, "undecodable_image")
        assert "it can't be decoded" in body["detail"]

    def test_a_cancelled_one_too(self, intake: App) -> None:
        id = intake.accepted()
        intake.http.post(f"/v1/jobs/{id}/cancel")
        assert "cancelled" in problem(intake.http.get(f"/v1/jobs/{id}/result"), 409, "job_failed")["detail"]


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"<xml/>" * 999]
)
def test_a_job_whose_objects_were_damaged_is_shown_and_neither_copied_nor_half_sent(
    intake: App, damage: Callable[[bytes], bytes]
) -> None:
    id = intake.answered("A sign.", PNG)
    key = archive_key(id)
    intake.objects.put(key, damage(intake.objects.get(key)), "application/x-tar")
    assert intake.http.get(f"/v1/jobs/{id}").json()["state"] == "succeeded"
    problem(intake.http.get(f"/v1/jobs/{id}/images/0"), 404, "not_found")
    # Where the request can still be read, and its images can't, nothing is accepted either.
    assert intake.http.post(f"/v1/jobs/{id}/retry").json()["code"] in ("not_found", "storage_unavailable")
    assert intake.submit("And?", parent=id).json()["code"] in ("unknown_parent", "storage_unavailable")


def test_an_image_of_which_a_byte_changed_is_not_sent(intake: App) -> None:
    id = intake.answered("A sign.", PNG)
    key = archive_key(id)
    intake.objects.put(key, intake.objects.get(key).replace(PNG, PNG[:-1] + b"?"), "application/x-tar")
    problem(intake.http.get(f"/v1/jobs/{id}/images/0"), 404, "not_found")


class TestPictures:
    """`GET /v1/jobs/{id}/images/{n}`."""

    def test_as_it_was_sent_and_never_shown_as_a_page(self, intake: App) -> None:
        answer = intake.http.get(f"/v1/jobs/{intake.accepted(PNG)}/images/0")
        assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-disposition"].startswith("attachment;")

    def test_as_the_model_sees_it(self, intake: App) -> None:
        id = intake.accepted(PNG)
        body = problem(intake.http.get(f"/v1/jobs/{id}/images/0?view=tiles"), 404, "not_found")
        assert "tiled" in body["detail"]
        intake.tile(id)
        assert intake.http.get(f"/v1/jobs/{id}/images/0?view=tiles").headers["content-type"] == "image/png"

    @pytest.mark.parametrize(
        ("rest", "status"), [("1", 404), ("-1", 422), ("x", 422), ("0?view=nude", 422), ("99999999999", 422)]
    )
    def test_none_is_refused(self, intake: App, rest: str, status: int) -> None:
        assert intake.http.get(f"/v1/jobs/{intake.accepted(PNG)}/images/{rest}").status_code == status


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/jobs", "GET, HEAD, POST"),
        ("HEAD", f"/v1/jobs/{NOWHERE}/cancel", "POST"),
        ("OPTIONS", f"/v1/jobs/{NOWHERE}", "DELETE, GET, HEAD"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("GET", f"/v1/jobs/{NOWHERE}/cancel", "POST"),
        ("DELETE", "/v1/batches", "GET, HEAD, POST"),
    ],
)
def test_a_method_that_a_path_does_not_know(intake: App, method: str, path: str, allow: str) -> None:
    answer = intake.http.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    if method != "HEAD":
        problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/jobs/", "/v2/jobs", "/docs", "/v1/jobs/a/b/c", "/%00", "//v1/jobs"])
def test_a_path_that_is_none(intake: App, path: str) -> None:
    answer: Any = intake.http.get(path)
    problem(answer, 404, "not_found")
