"""Many jobs as one."""

import json
from typing import Any

import pytest

from tests.acceptance.client import Client, data_uri
from tests.acceptance.conftest import plain_png
from tests.receiver import Receiver
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance
RED = plain_png()


def jobs(count: int) -> list[dict[str, object]]:
    return [{"custom_id": f"q{n}", "prompt": f"Question {n}", "images": [data_uri(RED)]} for n in range(count)]


def ended_batch(api: Client, id: str) -> dict[str, Any] | None:
    batch: dict[str, Any] = api.http.get(f"/v1/batches/{id}").json()
    return batch if batch["state"] == "ended" else None


def test_a_batch_is_answered_together_and_says_when_it_ended(api: Client, hook: Receiver) -> None:
    with hook.up():
        answer = api.http.post(
            "/v1/batches", json={"jobs": jobs(4), "defaults": {"tiles": 1}, "webhook": {"url": hook.url}}
        )
        assert answer.status_code == 202, answer.text
        batch = answer.json()
        assert sum(batch["counts"].values()) == 4
        ended = eventually(lambda: ended_batch(api, batch["id"]), 40)
        assert ended["counts"]["succeeded"] == 4
        eventually(lambda: "batch.ended" in hook.types())
    lines = api.http.get(f"/v1/batches/{batch['id']}/results").text.splitlines()
    results = {line["custom_id"]: line for line in map(json.loads, lines)}
    assert set(results) == {"q0", "q1", "q2", "q3"}
    assert "Question 3" in results["q3"]["output"]["text"]
    page = api.http.get(f"/v1/batches/{batch['id']}/jobs").json()
    assert {job["images"][0]["tiles"] for job in page["data"]} == {1}


def test_files_of_a_multipart_batch_are_named_by_the_requests(api: Client) -> None:
    request = {"jobs": [{"custom_id": str(n), "prompt": "x", "images": [{"part": "shared"}]} for n in range(2)]}
    answer = api.http.post("/v1/batches", files={"request": (None, json.dumps(request)), "shared": ("a.png", RED)})
    assert answer.status_code == 202, answer.text


def test_one_bad_item_refuses_the_batch_and_every_bad_item_is_listed(api: Client) -> None:
    bad = jobs(3)
    bad[0]["generation"] = {"max_new_tokens": 0}
    bad[2]["images"] = [data_uri(b"no image")]
    answer = api.http.post("/v1/batches", json={"jobs": bad})
    assert 400 <= answer.status_code < 500
    assert [error["index"] for error in answer.json()["errors"]] == [0, 2]


def test_a_cancelled_batch_ends(api: Client) -> None:
    batch = api.http.post("/v1/batches", json={"jobs": jobs(5)}).json()
    assert api.http.post(f"/v1/batches/{batch['id']}/cancel").status_code == 200
    eventually(lambda: ended_batch(api, batch["id"]), 40)
