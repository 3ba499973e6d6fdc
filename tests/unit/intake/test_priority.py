"""The highest priority that a key may use."""

from collections.abc import Iterator
from typing import Any

import pytest

from shared.jobs import PRIORITIES
from tests.unit.intake.app_fixture import App, problem, running_app
from tests.unit.intake.test_auth import bearer, make_key


@pytest.fixture
def capped() -> Iterator[App]:
    with running_app(max_priority="normal") as intake:
        yield intake


def priority(intake: App, **sent: Any) -> str:
    answer = intake.submit("?", **sent)
    assert answer.status_code == 202, answer.text
    return PRIORITIES[intake.job(answer.json()["id"]).priority]


def test_a_priority_above_the_keys_is_refused_on_both_surfaces_and_nothing_is_stored(capped: App) -> None:
    key = bearer(make_key(capped, "acme"))
    body = problem(capped.submit("?", priority="high", headers=key), 422, "invalid_field")
    assert body["field"] == "priority"
    assert "normal at most" in body["detail"]
    batch = {"jobs": [{"prompt": "?"}, {"prompt": "?"}], "defaults": {"priority": "high"}}
    refused = problem(capped.http.post("/v1/batches", json=batch, headers=key), 422, "invalid_field")
    assert [(error["index"], error["field"]) for error in refused["errors"]] == [(0, "priority"), (1, "priority")]
    response = {"input": "?", "background": True, "tileq": {"priority": "high"}}
    error = capped.http.post("/v1/responses", json=response, headers=key).json()["error"]
    assert error["param"] == "tileq.priority"
    assert capped.http.get("/v1/jobs", headers=key).json()["data"] == []


def test_a_priority_that_is_left_out_is_lowered_to_the_keys(capped: App) -> None:
    key = bearer(make_key(capped, "acme", max_priority="low"))
    assert priority(capped, headers=key) == "low"
    response = {"input": "?", "background": True, "tileq": {"tiles": 1}}
    made = capped.http.post("/v1/responses", json=response, headers=key).json()
    assert PRIORITIES[capped.job(made["id"].replace("resp_", "job_")).priority] == "low"
    problem(capped.submit("?", priority="normal", headers=key), 422, "invalid_field")


def test_a_keys_own_limit_goes_before_that_of_the_settings(capped: App) -> None:
    key = bearer(make_key(capped, "acme", max_priority="high"))
    assert [priority(capped, priority=asked, headers=key) for asked in PRIORITIES] == list(PRIORITIES)


def test_a_service_without_keys_has_one_tenant_and_no_limit(capped: App) -> None:
    assert priority(capped, priority="high") == "high"


def test_a_retry_is_lowered_to_the_priority_of_the_key_that_asks(capped: App) -> None:
    fast, slow = (bearer(make_key(capped, "acme", max_priority=most)) for most in ("high", "low"))
    id = capped.submit("?", priority="high", headers=fast).json()["id"]
    capped.fail(capped.claim())
    for key, expected in ((slow, "low"), (fast, "high")):
        again = capped.http.post(f"/v1/jobs/{id}/retry", headers=key).json()
        assert PRIORITIES[capped.job(again["id"]).priority] == expected
