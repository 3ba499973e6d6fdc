"""Many questions at once, all or none."""

import base64
import json
import threading
from typing import Any

import pytest

from shared.request_archive import read_manifest
from shared.storage import MemoryStorage, batch_key, result_key
from shared.views import BatchBody
from tests.unit.intake.app_fixture import Answer, App, problem, running_app
from tests.unit.intake.image_files import picture

PNG = picture("PNG", (900, 500))
URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
NOWHERE = "batch_" + "0" * 36


def post(intake: App, *jobs: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> Answer:
    answer: Answer = intake.http.post("/v1/batches", json={"jobs": list(jobs)} | more, headers=headers)
    return answer


def question(n: int, **more: Any) -> dict[str, Any]:
    return {"custom_id": f"q{n}", "prompt": f"Question {n}?"} | more


def taken(intake: App, count: int = 3, **more: Any) -> str:
    answer = post(intake, *(question(n) for n in range(count)), **more)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def test_all_are_taken_in_together(intake: App) -> None:
    answer = post(intake, question(0, images=[URI]), question(1), metadata={"run": "7"})
    body = BatchBody.model_validate(answer.json(), strict=True)
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/batches/{body.id}")
    assert (body.state, body.total, body.counts["queued"], body.metadata) == ("open", 2, 2, {"run": "7"})
    jobs = intake.http.get(f"/v1/batches/{body.id}/jobs").json()["data"]
    assert [(job["custom_id"], job["batch"], len(job["images"])) for job in jobs] == [
        ("q0", body.id, 1),
        ("q1", body.id, 0),
    ]
    assert json.loads(intake.objects.get(batch_key(body.id)))["total"] == "2"


def test_parts_are_named_by_many_jobs(intake: App) -> None:
    other = picture("JPEG", (64, 48))
    asked = {"jobs": [question(0, images=[{"part": "a"}]), question(1, images=[{"part": "a"}, {"part": "b"}])]}
    answer = intake.http.post("/v1/batches", files=[("b", other), ("request", ("", json.dumps(asked))), ("a", PNG)])
    assert answer.status_code == 202, answer.text
    first, second = intake.http.get(f"/v1/batches/{answer.json()['id']}/jobs").json()["data"]
    assert [image["width"] for image in (*first["images"], *second["images"])] == [900, 900, 64]
    assert intake.http.get(f"/v1/jobs/{second['id']}/images/1").content == other


def test_files_are_named_by_jobs_as_by_a_single_one(intake: App) -> None:
    file = intake.http.post("/v1/files", data={"purpose": "vision"}, files={"file": PNG}).json()["id"]
    answer = post(intake, question(0, images=[{"file_id": file}]), question(1, images=[{"file_id": "file_x"}]))
    [error] = problem(answer, 422, "invalid_field")["errors"]
    assert (error["index"], error["code"], error["field"]) == (1, "unknown_file", "images.0")
    batch = post(intake, question(0, images=[{"file_id": file}, URI])).json()["id"]
    [job] = intake.http.get(f"/v1/batches/{batch}/jobs").json()["data"]
    assert intake.http.get(f"/v1/jobs/{job['id']}/images/0").content == PNG


def test_a_part_that_no_job_names_is_refused_by_its_name(intake: App) -> None:
    asked = {"jobs": [question(0, images=[{"part": "a"}])]}
    answer = intake.http.post(
        "/v1/batches", files=[("request", ("", json.dumps(asked))), ("a", PNG), ("forgotten", PNG)]
    )
    assert problem(answer, 422, "invalid_field")["field"] == "forgotten"


def test_defaults_are_what_a_job_does_not_say(intake: App) -> None:
    defaults = {
        "prompt": "What is it?",
        "tiles": 6,
        "generation": {"max_new_tokens": 9, "temperature": 0.5},
        "webhook": {"url": "http://127.0.0.1:9009/"},
        "priority": "low",
    }
    jobs = [{"images": [URI]}, question(1, tiles=1, generation={"temperature": 0}, images=[URI])]
    id = post(intake, *jobs, defaults=defaults).json()["id"]
    first, second = intake.http.get(f"/v1/batches/{id}/jobs").json()["data"]
    assert (first["images"][0]["tiles"], second["images"][0]["tiles"]) == (3, 1)
    assert first["webhook"]["url"] == second["webhook"]["url"] == "http://127.0.0.1:9009/"
    generations = [read_manifest(intake.objects, job["id"]).request.generation for job in (first, second)]
    assert [(one.max_new_tokens, one.temperature) for one in generations] == [(9, 0.5), (9, 0)]


def test_one_bad_job_refuses_the_batch_and_every_bad_one_is_listed(intake: App) -> None:
    answer = post(
        intake,
        question(0),
        question(1, tiles=0),
        question(2, images=["data:image/png;base64," + base64.b64encode(b"no picture at all").decode()]),
        question(0),
        question(4, model="none"),
        {"custom_id": 5, "prompt": "?"},
        question(6, images=[{"part": "missing"}]),
    )
    errors = problem(answer, 422, "invalid_field")["errors"]
    assert [
        (error["index"], error["custom_id"], error["code"], error["field"], error["image"]) for error in errors
    ] == [
        (1, "q1", "invalid_field", "tiles", None),
        (2, "q2", "unsupported_image_type", None, 0),
        (3, "q0", "invalid_field", "custom_id", None),
        (4, "q4", "unknown_model", "model", None),
        (5, None, "invalid_field", "custom_id", None),
        (6, "q6", "invalid_field", "images.0", 0),
    ]
    assert intake.http.get("/v1/jobs").json()["data"] == []
    assert list(intake.objects.keys("")) == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "jobs"),
        ({"jobs": []}, "jobs"),
        ({"jobs": {}}, "jobs"),
        ({"jobs": ["?"]}, "jobs"),
        ({"jobs": [{"prompt": "?"}], "model": "x"}, "model"),
        ({"jobs": [{"prompt": "?"}], "defaults": {"images": []}}, "defaults.images"),
        ({"jobs": [{"prompt": "?"}], "defaults": {"tiles": "2"}}, "defaults.tiles"),
        (
            {"jobs": [{"prompt": "?"}], "webhook": {"url": "http://127.0.0.1:9009/", "events": ["job.failed"]}},
            "webhook.events.0",
        ),
        ({"jobs": [{"prompt": "?"}], "metadata": {"a": 1}}, "metadata.a"),
    ],
    ids=str,
)
def test_a_frame_that_does_not_fit_is_named(intake: App, body: dict[str, Any], field: str) -> None:
    assert problem(intake.http.post("/v1/batches", json=body), 422, "invalid_field")["field"] == field


def test_more_jobs_than_the_limit_are_refused() -> None:
    with running_app(max_batch_jobs=2) as intake:
        problem(post(intake, *(question(n) for n in range(3))), 422, "invalid_field")


def test_pictures_count_for_every_job_that_names_them() -> None:
    with running_app(max_body_bytes=4000) as intake:
        noise = picture("BMP", (20, 20))
        asked = {"jobs": [{"prompt": "?", "images": [{"part": "a"}]} for _ in range(60)]}
        answer = intake.http.post("/v1/batches", files=[("request", ("", json.dumps(asked))), ("a", noise)])
        problem(answer, 413, "body_too_large")


@pytest.mark.parametrize(
    "files",
    [
        [("a", PNG)],
        [("request", ("", '{"jobs": [{"prompt": "?"}]}')), ("a", PNG), ("a", PNG)],
    ],
    ids=["no request", "a part twice"],
)
def test_a_form_that_does_not_fit_is_refused(intake: App, files: list[Any]) -> None:
    problem(intake.http.post("/v1/batches", files=files), 422, "invalid_field")


def test_it_ends_with_its_last_job_and_says_so(intake: App) -> None:
    id = taken(intake, 2, webhook={"url": "http://127.0.0.1:9009/"})
    intake.succeed(intake.claim())
    assert intake.http.get(f"/v1/batches/{id}").json()["state"] == "open"
    intake.fail(intake.claim())
    answer = intake.http.get(f"/v1/batches/{id}")
    body = BatchBody.model_validate(answer.json(), strict=True)
    assert (body.state, body.counts["succeeded"], body.counts["failed"], body.webhook.state) == (
        "ended",
        1,
        1,
        "pending",
    )
    assert "retry-after" not in answer.headers
    assert intake.deliver() == f"msg_{id[6:]}_ended"


def test_results_are_lines_of_what_ended(intake: App) -> None:
    id = taken(intake, 3)
    intake.succeed(intake.claim(), "Yes.")
    intake.succeed(intake.claim(), "long " * 5000, inline=False)
    answer = intake.http.get(f"/v1/batches/{id}/results")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/jsonl"
    assert [(line["custom_id"], line["output"]["text"][:5]) for line in lines] == [("q0", "Yes."), ("q1", "long ")]


def test_a_lost_result_is_said_in_its_line_and_hides_no_other(intake: App) -> None:
    id = taken(intake, 2)
    job = intake.claim()
    intake.succeed(job, "long " * 5000, inline=False)
    intake.succeed(intake.claim(), "Yes.")
    intake.objects.delete(result_key(job.id, 1))
    first, second = map(json.loads, intake.http.get(f"/v1/batches/{id}/results").text.splitlines())
    assert (first["output"], first["error"]["code"], second["output"]["text"]) == (None, "result_lost", "Yes.")
    listed = intake.http.get(f"/v1/batches/{id}/jobs").json()["data"]
    assert [(one["output_omitted"], bool(one["output"])) for one in listed] == [(True, False), (False, True)]


def test_long_results_are_fetched_side_by_side() -> None:
    objects = Meeting(3)
    with running_app(objects) as intake:
        id = taken(intake, 3)
        for _ in range(3):
            intake.succeed(intake.claim(), "long " * 5000, inline=False)
        lines = intake.http.get(f"/v1/batches/{id}/results").text.splitlines()
        assert [len(json.loads(line)["output"]["text"]) for line in lines] == [25_000] * 3


class Meeting(MemoryStorage):
    """A storage whose reads of results go on only once so many are under way."""

    def __init__(self, parties: int) -> None:
        super().__init__()
        self._barrier = threading.Barrier(parties, timeout=5)

    def get(self, key: str, size: int | None = None) -> bytes:
        """See `Objects.get`."""
        if "/result-" in key:
            self._barrier.wait()
        return super().get(key, size)


def test_results_and_pages_of_many_jobs(intake: App) -> None:
    id = taken(intake, 250)
    seen: list[str] = []
    after: str | None = "0"
    while after is not None:
        page = intake.http.get(f"/v1/batches/{id}/jobs", params={"limit": 100, "after": after}).json()
        seen += [job["custom_id"] for job in page["data"]]
        after = page["next"]
    assert seen == [f"q{n}" for n in range(250)]
    intake.http.post(f"/v1/batches/{id}/cancel")
    assert len(intake.http.get(f"/v1/batches/{id}/results").text.splitlines()) == 250


def test_cancelling_ends_every_job(intake: App) -> None:
    id = taken(intake, 3)
    intake.succeed(intake.claim())
    body = intake.http.post(f"/v1/batches/{id}/cancel").json()
    assert (body["outcome"], body["batch"]["state"]) == ("cancelled", "ended")
    assert (body["batch"]["counts"]["cancelled"], body["batch"]["counts"]["succeeded"]) == (2, 1)
    assert intake.http.post(f"/v1/batches/{id}/cancel").json()["outcome"] == "already_ended"


def test_cancelling_waits_for_who_works(intake: App) -> None:
    id = taken(intake, 2)
    intake.claim()
    body = intake.http.post(f"/v1/batches/{id}/cancel").json()
    assert (body["outcome"], body["batch"]["state"]) == ("cancelling", "open")


def test_one_key_one_batch(intake: App) -> None:
    key = {"Idempotency-Key": "K"}
    first = post(intake, question(0), headers=key).json()["id"]
    again = post(intake, question(0), headers=key)
    assert (again.status_code, again.json()["id"], again.headers["idempotent-replayed"]) == (202, first, "true")
    problem(post(intake, question(1), headers=key), 422, "idempotency_mismatch")
    problem(intake.submit("?", headers=key), 422, "idempotency_mismatch")
    intake.http.post(f"/v1/batches/{first}/cancel")
    assert post(intake, question(0), headers=key).status_code == 200


def test_jobs_are_listed_by_batch(intake: App) -> None:
    intake.accepted()
    id = taken(intake, 2)
    assert len(intake.http.get(f"/v1/jobs?batch={id}").json()["data"]) == 2
    assert intake.http.get(f"/v1/jobs?batch={NOWHERE}").json()["data"] == []


@pytest.mark.parametrize("id", [NOWHERE, "batch_x", "%00"])
def test_none_is_not_found(intake: App, id: str) -> None:
    for path in ("", "/jobs", "/results"):
        problem(intake.http.get(f"/v1/batches/{id}{path}"), 404, "not_found")
    problem(intake.http.post(f"/v1/batches/{id}/cancel"), 404, "not_found")
