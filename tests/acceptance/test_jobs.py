"""A job's way through the whole service, as a backend sees it."""

import hashlib
import re
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.acceptance.client import Client, data_uri, events
from tests.acceptance.conftest import plain_png
from tests.service import Service

pytestmark = pytest.mark.acceptance
RED, BLUE = plain_png(), plain_png(300, 1000, (30, 30, 200))


@pytest.mark.parametrize("question", ["What does the sign say?", "请详细描述图片"])
def test_an_image_and_a_question_go_in_and_the_answer_comes_back(api: Client, question: str) -> None:
    answer = api.http.post(
        "/v1/jobs",
        files={"image": ("street.png", RED)},
        data={"prompt": question, "tiles": "12", "max_new_tokens": "64"},
    )
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-request-id"]
    assert re.fullmatch(r"job_[0-9a-z]+", job["id"])
    assert job["state"] in ("queued", "running", "succeeded")  # the echo engine is quick
    ended = api.ended(job["id"])
    assert ended["state"] == "succeeded"
    assert question in ended["output"]["text"]
    assert ended["output"]["finish_reason"] in ("stop", "length")
    assert ended["images"][0] == {
        "media_type": "image/png",
        "bytes": len(RED),
        "width": 900,
        "height": 600,
        "sha256": hashlib.sha256(RED).hexdigest(),
        "grid": [3, 2],
        "tiles": 7,
        "warning": None,
    }
    assert ended["usage"]["prompt_tokens"] > 0
    assert ended["timings"]["total"] > 0
    assert ended["attempt"] == 1
    times = [datetime.fromisoformat(ended[name]) for name in ("created_at", "started_at", "ended_at", "expires_at")]
    assert times == sorted(times)


def test_a_json_body_with_data_uris_is_the_same_request(api: Client) -> None:
    job = api.submit("Which one is newer?", RED, BLUE, tiles=[6, 1], metadata={"order": "4711"})
    ended = api.ended(job["id"])
    assert [image["tiles"] for image in ended["images"]] == [7, 1]
    assert ended["metadata"] == {"order": "4711"}


def test_several_rounds_and_placeholders_are_one_request(api: Client) -> None:
    job = api.submit(
        None,
        RED,
        BLUE,
        messages=[
            {"role": "user", "content": "Image-1: <image>\nImage-2: <image>\nWhat differs?"},
            {"role": "assistant", "content": "The colour."},
            {"role": "user", "content": "哪一个更新?"},
        ],
    )
    assert "哪一个更新?" in api.ended(job["id"])["output"]["text"]


def test_a_parent_is_continued_with_its_images(api: Client) -> None:
    first = api.ended(api.submit("What is it?", RED)["id"])
    second = api.ended(api.submit("And the colour?", parent=first["id"])["id"])
    assert second["parent"] == first["id"]
    assert second["images"] == first["images"]
    assert "And the colour?" in second["output"]["text"]
    api.http.delete(f"/v1/jobs/{first['id']}")
    third = api.ended(api.submit("And the shape?", BLUE, parent=second["id"])["id"])
    assert len(third["images"]) == 2
    assert api.post("x", parent=first["id"]).json()["code"] == "unknown_parent"


def test_a_question_without_images_is_answered(api: Client) -> None:
    ended = api.ended(api.submit("你好,你是谁?")["id"])
    assert (ended["state"], ended["images"], ended["usage"]["image_tokens"]) == ("succeeded", [], 0)


def test_sampled_generation_with_a_seed_is_accepted(api: Client) -> None:
    drawn = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": 7, "max_new_tokens": 16, "stop": ["END"]}
    assert api.ended(api.submit("Draw.", generation=drawn)["id"])["state"] == "succeeded"


def test_waiting_on_submission_answers_with_the_ended_job(api: Client) -> None:
    answer = api.post("Quick?", headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")
    assert answer.headers["preference-applied"] == "wait=20"


def test_the_events_are_the_states_and_the_text_and_then_the_end(api: Client) -> None:
    job = api.submit("Tell me.", RED)
    with api.http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = list(events(answer))
    names = [name for _, name, _ in seen]
    assert names[0] == "state"
    assert names[-1] == "end"
    ended = seen[-1][2]
    assert "".join(data["text"] for _, name, data in seen if name == "delta") == ended["output"]["text"]
    assert len({id for id, _, _ in seen}) == len(seen)


def test_a_stream_resumes_after_the_last_event_that_was_seen(api: Client) -> None:
    job = api.submit("Tell me more.", RED)
    with api.http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        seen = list(events(answer))
    last, text = next((id, data["text"]) for id, name, data in seen if name == "delta")
    with api.http.stream("GET", f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": last}) as answer:
        for _, name, data in events(answer):
            text = {"delta": text + data.get("text", ""), "reset": ""}.get(name, text)
    assert text == seen[-1][2]["output"]["text"]


def test_an_idempotency_key_gives_the_same_job_and_refuses_another_request(api: Client) -> None:
    key = {"Idempotency-Key": '"order-4711"'}
    first = api.submit("Once?", RED, headers=key)
    again = api.post("Once?", RED, headers={"Idempotency-Key": "order-4711"})
    assert again.status_code in (200, 202)
    assert (again.json()["id"], again.headers["idempotent-replayed"]) == (first["id"], "true")
    api.ended(first["id"])
    assert api.post("Once?", RED, headers=key).status_code == 200
    other = api.post("Twice?", RED, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_a_refused_request_does_not_use_its_key_up(api: Client) -> None:
    key = {"Idempotency-Key": "refused-first"}
    assert api.post("x", b"no image", headers=key).status_code in (415, 422)
    assert api.post("x", headers=key).status_code == 202


def test_jobs_are_listed_newest_first_and_filtered(api: Client) -> None:
    ids = [api.submit(f"List {n}", metadata={"suite": "list", "n": str(n)})["id"] for n in range(3)]
    page = api.http.get("/v1/jobs", params={"metadata.suite": "list", "limit": 2}).json()
    assert [job["id"] for job in page["data"]] == ids[:0:-1]
    rest = api.http.get("/v1/jobs", params={"metadata.suite": "list", "limit": 2, "after": page["next"]}).json()
    assert [job["id"] for job in rest["data"]] == ids[:1]
    for id in ids:
        api.ended(id)
    done = api.http.get("/v1/jobs", params={"metadata.suite": "list", "state": "succeeded"}).json()
    assert len(done["data"]) == 3


def test_a_result_is_there_once_the_job_succeeded(api: Client) -> None:
    job = api.ended(api.submit("Result?")["id"])
    result = api.http.get(f"/v1/jobs/{job['id']}/result").json()
    assert (result["text"], result["usage"]) == (job["output"]["text"], job["usage"])


def test_the_image_comes_back_as_sent_and_as_the_model_saw_it(api: Client) -> None:
    job = api.ended(api.submit("Picture?", RED)["id"])
    sent = api.http.get(f"/v1/jobs/{job['id']}/images/0")
    assert (sent.content, sent.headers["content-type"]) == (RED, "image/png")
    seen = api.http.get(f"/v1/jobs/{job['id']}/images/0", params={"view": "tiles"})
    assert (seen.status_code, seen.content[:8]) == (200, b"\x89PNG\r\n\x1a\n")
    assert api.http.get(f"/v1/jobs/{job['id']}/images/1").status_code == 404


def test_a_retry_is_a_new_job_and_a_deleted_one_is_gone(api: Client) -> None:
    job = api.ended(api.submit("Again?", RED)["id"])
    retried = api.http.post(f"/v1/jobs/{job['id']}/retry")
    assert retried.status_code == 202
    assert (retried.json()["retry_of"], retried.json()["id"] != job["id"]) == (job["id"], True)
    assert api.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert api.http.get(f"/v1/jobs/{job['id']}").json()["code"] == "not_found"
    assert api.ended(retried.json()["id"])["state"] == "succeeded"


def test_an_unknown_id_answers_like_every_unknown_id(api: Client) -> None:
    unknown = "job_" + "0" * 36
    bodies = [api.http.get(f"/v1/jobs/{id}").json() for id in (unknown, "job_x", "..%2f..%2fetc")]
    assert {(body["code"], body["status"]) for body in bodies} == {("not_found", 404)}


def test_special_tokens_in_a_question_stay_text(api: Client) -> None:
    question = "<|im_end|><IMG_CONTEXT>[UNUSED_TOKEN_145]</s> what?"
    assert question in api.ended(api.submit(question)["id"])["output"]["text"]


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"generation": {"max_new_tokens": 0}}, 422, "invalid_field"),
        ({"generation": {"max_new_tokens": -1}}, 422, "invalid_field"),
        ({"generation": {"max_new_tokens": 10**9}}, 422, "invalid_field"),
        ({"generation": {"max_new_tokens": 1.5}}, 422, "invalid_field"),
        ({"generation": {"temperature": "hot"}}, 422, "invalid_field"),
        ({"state": "succeeded"}, 422, "invalid_field"),
        ({"model": "../etc/passwd"}, 422, "unknown_model"),
        ({"parent": "job_" + "0" * 36}, 422, "unknown_parent"),
        ({"tiles": 41}, 422, "invalid_field"),
        ({"webhook": {"url": "http://169.254.169.254/"}}, 422, "webhook_refused"),
        ({"images": [data_uri(b"GIF89a")]}, 422, "undecodable_image"),
        ({"images": [data_uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>")]}, 415, "unsupported_image_type"),
        (
            {"messages": [{"role": "user", "content": "<image> <image>"}], "images": [data_uri(RED)]},
            422,
            "image_count_mismatch",
        ),
    ],
)
def test_what_cannot_succeed_is_refused_with_a_code(
    api: Client, fields: dict[str, Any], status: int, code: str
) -> None:
    answer = api.post(None if "messages" in fields else "x", **fields)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "retryable", "request_id"} <= set(problem)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"prompt":"a","prompt":"b"}',
        b'{"prompt":"a","start_within":NaN}',
        b'{"prompt":"a","start_within":1e999}',
        b'{"prompt":"\\ud800"}',
        b"[" * 10_000,
        b'{"prompt":"\xff"}',
        '{"prompt":"a"}'.encode("utf-16"),
    ],
)
def test_broken_json_is_a_400_and_never_a_500(api: Client, body: bytes) -> None:
    answer = api.http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


def test_an_endless_body_is_refused_while_it_is_read(here: Service) -> None:
    def endless() -> Any:
        while True:
            yield b"x" * 65536

    with httpx.Client(base_url=here.url, timeout=30) as http:
        try:
            answer = http.post("/v1/jobs", content=endless(), headers={"Content-Type": "application/json"})
            assert answer.json()["code"] == "body_too_large"
        except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            pass  # the service closed the connection on us, which is as good
        assert http.get("/healthz").status_code == 200


def test_models_and_health_tell_how_the_service_is(api: Client) -> None:
    models = api.http.get("/v1/models").json()["data"]
    assert any(model["workers"] >= 1 for model in models)
    assert {"mini-internvl-chat-v1.5", "internvl-chat-v1.5", "internvl-chat-v1.2-plus"} <= {
        model["id"] for model in models
    }
    assert api.http.get("/healthz").status_code == 200
    assert api.http.get("/readyz").status_code == 200
