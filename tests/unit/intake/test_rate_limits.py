"""Limits of tenants over HTTP: 429 with Retry-After and the RateLimit fields, and nothing stored."""

from typing import Any

import pytest
from prometheus_client import REGISTRY

from shared.keys import KEYLESS
from shared.limits import LimitOverride
from shared.store import limits
from tests.unit.intake.app_fixture import App, problem, running_app
from tests.unit.intake.image_files import picture
from tests.unit.intake.test_auth import bearer, make_key


def refusals(limit: str) -> float:
    return REGISTRY.get_sample_value("tileq_limit_refusals_total", {"limit": limit}) or 0


def test_too_many_requests_are_refused_with_what_is_left_and_when() -> None:
    before = refusals("requests")
    with running_app(limit_requests=2) as intake:
        first = intake.http.get("/v1/jobs")
        assert first.headers["ratelimit-policy"] == '"requests";q=2;w=60'
        assert first.headers["ratelimit"] == '"requests";r=1;t=30'
        openai = {"limit": "2", "remaining": "1", "reset": "30s"}
        assert {name: first.headers[f"x-ratelimit-{name}-requests"] for name in openai} == openai
        intake.http.get("/v1/models")
        refused = intake.http.get("/v1/jobs")
        body = problem(refused, 429, "rate_limited")
        assert body["retryable"]
        assert refused.headers["ratelimit"] == f'"requests";r=0;t={refused.headers["retry-after"]}'
        assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert refusals("requests") == before + 1


def test_health_is_not_limited() -> None:
    with running_app(limit_requests=1) as intake:
        assert [intake.http.get("/healthz").status_code for _ in range(3)] == [200, 200, 200]


def test_all_keys_of_a_tenant_share_its_limit_and_others_have_their_own() -> None:
    with running_app(limit_requests=1) as intake:
        one, two, other = make_key(intake, "acme"), make_key(intake, "acme"), make_key(intake, "other")
        statuses = [intake.http.get("/v1/jobs", headers=bearer(key)).status_code for key in (one, two, other)]
    assert statuses == [200, 429, 200]


@pytest.mark.parametrize(
    ("setting", "limit"), [("limit_queued", "queued"), ("limit_bytes", "bytes"), ("limit_tokens", "tokens")]
)
def test_a_used_up_quota_refuses_the_next_job_before_anything_is_stored(setting: str, limit: str) -> None:
    settings: dict[str, Any] = {setting: 1}
    with running_app(**settings) as intake:
        if limit != "queued":
            intake.store.client.hincrby(_usage_key(intake), limit, 1)
        else:
            intake.accepted()
        objects = list(intake.objects.keys(""))
        refused = intake.submit("?", picture("PNG"), headers={"Idempotency-Key": "k"})
        problem(refused, 429, "quota_exceeded")
        assert refused.headers["ratelimit"].startswith(f'"{limit}";r=0;t=')
        assert int(refused.headers["retry-after"]) >= 1
        assert list(intake.objects.keys("")) == objects
        assert intake.http.get("/v1/jobs").status_code == 200


def _usage_key(intake: App) -> str:
    day = intake.store.client.time()[0] // 86_400
    return f"{intake.store.prefix}usage:{KEYLESS}:{day}"


def test_an_image_that_passes_the_days_bytes_is_refused_and_its_objects_are_deleted() -> None:
    with running_app(limit_bytes=10) as intake:
        body = problem(intake.submit("?", picture("PNG")), 429, "quota_exceeded")
        assert "10 bytes" in body["detail"]
        intake.call(intake.context.background.cancel_all)
        assert intake.submit("?").status_code == 202


def test_a_refused_job_does_not_use_its_idempotency_key_up() -> None:
    with running_app(limit_queued=1) as intake:
        first = intake.accepted()
        key = {"Idempotency-Key": "k"}
        problem(intake.submit("another?", headers=key), 429, "quota_exceeded")
        intake.http.post(f"/v1/jobs/{first}/cancel")
        assert intake.submit("a third?", headers=key).status_code == 202


def test_a_batch_that_never_fits_says_so() -> None:
    with running_app(limit_queued=1) as intake:
        answer = intake.http.post("/v1/batches", json={"jobs": [{"prompt": "?"}, {"prompt": "?"}]})
        assert "never fit" in problem(answer, 429, "quota_exceeded")["detail"]


def test_a_tenant_may_have_other_limits_than_the_settings() -> None:
    with running_app(limit_requests=1) as intake:
        acme, other = make_key(intake, "acme"), make_key(intake, "other")
        intake.store.run(limits.put("acme", LimitOverride(requests=0)))
        intake.store.run(limits.put("other", LimitOverride(requests=2)))
        calls = {
            key: [intake.http.get("/v1/jobs", headers=bearer(key)).status_code for _ in range(3)]
            for key in (acme, other)
        }
    assert calls == {acme: [200, 200, 200], other: [200, 200, 429]}


def test_without_limits_no_request_is_counted(intake: App) -> None:
    answer = intake.http.get("/v1/jobs")
    assert "ratelimit" not in answer.headers
    assert not intake.store.client.keys("*rate:*")
