"""What surrounds every call: ids, headers, logs, numbers, health, and the document."""

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
import structlog
from prometheus_client import REGISTRY

from services.intake.app import build_app
from services.intake.schemas.responses import ModelList, Problem, Ready
from shared import errors
from shared.errors import RequestError
from shared.settings.roles import Settings
from shared.store import transitions
from shared.webhooks.events import EVENT_TYPES
from tests.unit.intake.app_fixture import App, problem, running_app
from tests.unit.intake.image_files import picture


class TestRequestId:
    """Every answer carries one."""

    @pytest.mark.parametrize("sent", ["abc-123", "a" * 128, "00-aa:bb/cc"])
    def test_a_sane_one_is_taken_up(self, intake: App, sent: str) -> None:
        assert intake.http.get("/healthz", headers={"X-Request-Id": sent}).headers["x-request-id"] == sent

    @pytest.mark.parametrize("sent", ["", "a" * 129, "a b", 'a"b', "<script>"])
    def test_any_other_is_replaced(self, intake: App, sent: str) -> None:
        made = intake.http.get("/nowhere", headers={"X-Request-Id": sent}).headers["x-request-id"]
        assert re.fullmatch("[0-9a-f]{32}", made)

    def test_so_do_safe_headers(self, intake: App) -> None:
        headers = intake.http.get("/nowhere").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_one_line_a_request_without_keys_or_text(intake: App) -> None:
    with structlog.testing.capture_logs() as lines:
        intake.http.post("/v1/jobs", json={"prompt": "tell nobody"}, headers={"X-Request-Id": "r1"})
        intake.http.get("/v1/jobs?metadata.secret=hidden", headers={"Authorization": "Bearer tq_hidden"})
    mine = [line for line in lines if line["event"] == "request"]
    assert [(line["method"], line["route"], line["status"]) for line in mine] == [
        ("POST", "/v1/jobs", 202),
        ("GET", "/v1/jobs", 401),
    ]
    assert (mine[0]["tenant"], mine[1]["code"]) == ("local", "invalid_key")
    assert "nobody" not in str(lines)
    assert "hidden" not in str(lines)


def test_what_nobody_thought_of_is_a_problem_too(intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr("services.intake.routes.jobs.read_headers", broken)
    with structlog.testing.capture_logs() as lines:
        answer = intake.submit("?")
    assert "secret" not in problem(answer, 500, "internal")["detail"]
    assert any(line.get("exc_info") for line in lines)


def test_numbers_are_kept(intake: App) -> None:
    def sample(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(name, labels) or 0.0

    before = (
        sample("tileq_job_accept_duration_seconds_count"),
        sample("tileq_http_refusals_total", code="unknown_model"),
    )
    intake.accepted()
    intake.submit("?", model="none")
    after = sample("tileq_job_accept_duration_seconds_count"), sample("tileq_http_refusals_total", code="unknown_model")
    assert after == (before[0] + 1, before[1] + 1)
    assert sample("tileq_http_requests_total", route="/v1/jobs", method="POST", status="202") >= 1


class TestHealth:
    """`/healthz`, `/readyz`."""

    def test_alive(self, intake: App) -> None:
        assert intake.http.get("/healthz").json() == {"status": "ok"}

    def test_ready(self, intake: App) -> None:
        answer = intake.http.get("/readyz")
        assert (answer.status_code, Ready.model_validate(answer.json()).status) == (200, "ready")

    def test_a_store_that_keeps_nothing_is_down_with_the_reason(self) -> None:
        with running_app(aof=False) as intake:
            answer = intake.http.get("/readyz")
            redis = answer.json()["dependencies"]["redis"]
            assert (answer.status_code, redis["up"]) == (503, False)
            assert "--appendonly yes" in redis["reason"]
        with running_app(aof=False, require_aof=False) as intake:
            assert intake.http.get("/readyz").status_code == 200

    def test_a_storage_that_is_down_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def down(_: object) -> None:
            raise errors.StorageDown("the object storage did not answer bucket tileq")

        monkeypatch.setattr("shared.storage.MemoryStorage.check", down)
        with running_app() as intake:
            answer = intake.http.get("/readyz")
            assert (answer.status_code, answer.json()["dependencies"]["storage"]["up"]) == (503, False)
            assert answer.json()["dependencies"]["redis"]["up"] is True


class TestModels:
    """`GET /v1/models`."""

    def test_the_family_and_the_default(self, intake: App) -> None:
        models = ModelList.model_validate(intake.http.get("/v1/models").json(), strict=True).data
        assert [model.id for model in models if model.default] == ["tileq-demo"]
        mini = next(model for model in models if model.id == "mini-internvl-chat-v1.5")
        assert (mini.tiles, mini.tokens_per_tile, mini.context, mini.workers) == ([1, 40], 256, 32_768, 0)

    def test_what_a_worker_announced(self, intake: App) -> None:
        card = {"title": "Mine", "context": 500, "tiles": [1, 2], "languages": ["en"], "engine": "echo", "slots": 4}
        intake.store.run(transitions.register_worker("mine", "w1", card, 60))
        mine = next(model for model in intake.http.get("/v1/models").json()["data"] if model["id"] == "mine")
        assert (mine["title"], mine["context"], mine["tiles"], mine["workers"]) == ("Mine", 500, [1, 2], 1)
        assert intake.submit("?", model="mine").status_code == 202
        problem(intake.submit("a" * 500, model="mine"), 422, "prompt_too_long")

    @pytest.mark.parametrize(
        ("settings", "default"),
        [
            ({"model": "OpenGVLab/Mini-InternVL-Chat-V1-5"}, "mini-internvl-chat-v1.5"),
            ({"model": "/models/My Model"}, "my-model"),
            ({"model_id": "mine"}, "mine"),
            ({"default_model": "internvl-chat-v1.2", "model_id": "mine"}, "internvl-chat-v1.2"),
        ],
    )
    def test_the_default_is_what_the_settings_say(self, settings: dict[str, Any], default: str) -> None:
        with running_app(**settings) as intake:
            assert intake.submit("?").json()["model"] == default


@pytest.mark.parametrize(
    ("method", "path", "hint"),
    [
        ("POST", "/v1/jobs?wait=20", "has none"),
        ("GET", "/v1/jobs/{id}?timeout=20", "use wait"),
        ("GET", "/v1/jobs?metadata=x", "metadata.KEY"),
        ("GET", "/v1/jobs?metadata.=x", "metadata.KEY"),
        ("POST", "/v1/jobs/{id}/cancel?force=1", "has none"),
        ("GET", "/v1/models?limit=1", "has none"),
    ],
)
def test_a_query_parameter_that_would_be_ignored_is_refused(intake: App, method: str, path: str, hint: str) -> None:
    url = path.format(id=intake.accepted())
    answer = intake.http.request(method, url, json={"prompt": "?"} if method == "POST" else None)
    assert hint in problem(answer, 422, "invalid_field")["detail"]


@pytest.mark.parametrize("query", ["state=queued&state=running", "limit=1&limit=2"])
def test_a_query_parameter_that_is_there_twice_is_refused(intake: App, query: str) -> None:
    answer = intake.http.get(f"/v1/jobs?{query}")
    assert "more than once" in problem(answer, 422, "invalid_field")["detail"]


def test_several_filters_of_metadata_are_not(intake: App) -> None:
    assert intake.http.get("/v1/jobs?metadata.a=1&metadata.a=2").status_code == 200


def test_probes_may_have_any_query(intake: App) -> None:
    assert intake.http.get("/healthz?t=1").status_code == 200


class TestBehindAProxy:
    """Under a path prefix."""

    @pytest.mark.parametrize("sent", ["", "/vision"], ids=["the proxy strips it", "the proxy passes it on"])
    def test_links_lead_through_the_proxy(self, sent: str) -> None:
        with running_app(root_path="/vision") as intake:
            answer = intake.http.post(f"{sent}/v1/jobs", json={"prompt": "?"})
            location = answer.headers["location"]
            assert (answer.status_code, location) == (202, f"/vision/v1/jobs/{answer.json()['id']}")
            assert intake.http.get(location).status_code == 200
            batch = intake.http.post(f"{sent}/v1/batches", json={"jobs": [{"prompt": "?"}]})
            assert batch.headers["location"].startswith("/vision/v1/batches/batch_")
            document = intake.http.get(f"{sent}/openapi.json").json()
            assert document["servers"] == [{"url": "/vision"}]

    @pytest.mark.parametrize("path", ["vision", "/vision/", "/", "https://example.org/vision", "/a b", "/a//b"])
    def test_what_is_no_path_is_refused_at_start(self, path: str) -> None:
        with pytest.raises(ValueError, match="root_path"):
            Settings(root_path=path)


class TestDocument:
    """`/openapi.json` tells the truth."""

    def test_every_call_of_the_contract_is_there(self, intake: App) -> None:
        paths = intake.http.get("/openapi.json").json()["paths"]
        calls = {(method.upper(), path) for path, methods in paths.items() for method in methods}
        assert calls == {
            ("POST", "/v1/files"),
            ("GET", "/v1/files"),
            ("GET", "/v1/files/{id}"),
            ("GET", "/v1/files/{id}/content"),
            ("DELETE", "/v1/files/{id}"),
            ("POST", "/v1/uploads"),
            ("POST", "/v1/uploads/{id}/complete"),
            ("POST", "/v1/uploads/{id}/parts"),
            ("POST", "/v1/uploads/{id}/cancel"),
            ("POST", "/v1/webhook_endpoints"),
            ("GET", "/v1/webhook_endpoints"),
            ("GET", "/v1/webhook_endpoints/{id}"),
            ("POST", "/v1/webhook_endpoints/{id}"),
            ("DELETE", "/v1/webhook_endpoints/{id}"),
            ("POST", "/v1/webhook_endpoints/{id}/rotate_secret"),
            ("POST", "/v1/webhook_endpoints/{id}/test"),
            ("GET", "/v1/webhook_event_types"),
            ("POST", "/v1/jobs"),
            ("GET", "/v1/jobs"),
            ("GET", "/v1/jobs/{id}"),
            ("DELETE", "/v1/jobs/{id}"),
            ("GET", "/v1/jobs/{id}/events"),
            ("POST", "/v1/jobs/{id}/cancel"),
            ("POST", "/v1/jobs/{id}/retry"),
            ("GET", "/v1/jobs/{id}/result"),
            ("GET", "/v1/jobs/{id}/images/{n}"),
            ("GET", "/v1/jobs/{id}/deliveries"),
            ("POST", "/v1/jobs/{id}/deliveries/{msg}/redeliver"),
            ("POST", "/v1/batches"),
            ("GET", "/v1/batches"),
            ("GET", "/v1/batches/{id}"),
            ("GET", "/v1/batches/{id}/jobs"),
            ("GET", "/v1/batches/{id}/results"),
            ("POST", "/v1/batches/{id}/cancel"),
            ("POST", "/v1/webhooks/test"),
            ("POST", "/v1/webhooks/secret/rotate"),
            ("GET", "/v1/models"),
            ("GET", "/healthz"),
            ("GET", "/readyz"),
            ("POST", "/v1/responses"),
            ("GET", "/v1/responses/{id}"),
            ("DELETE", "/v1/responses/{id}"),
            ("POST", "/v1/responses/{id}/cancel"),
            ("GET", "/v1/responses/{id}/input_items"),
            ("POST", "/v1/chat/completions"),
            ("GET", "/v1/models/{id}"),
        }

    def test_every_code_that_a_client_may_hear_is_there(self, intake: App) -> None:
        document = json.dumps(intake.http.get("/openapi.json").json())
        unused = {"rate_limited", "quota_exceeded", "method_not_allowed", "request_timeout", "headers_too_large"}
        kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, RequestError)]
        assert [kind.code for kind in kinds if f"`{kind.code}`" not in document and kind.code not in unused] == []

    @pytest.mark.parametrize(
        ("type", "path"), [("job.failed", "/v1/jobs/{id}"), ("response.failed", "/v1/responses/{id}")]
    )
    def test_webhooks_have_the_shape_of_the_answers(self, intake: App, type: str, path: str) -> None:
        document = intake.http.get("/openapi.json").json()
        body = document["webhooks"][type]["post"]["requestBody"]["content"]["application/json"]["schema"]
        event = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]
        shown = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert shown in event["properties"]["data"]["anyOf"]
        assert type in event["properties"]["type"]["enum"]

    def test_every_type_of_event_has_a_webhook(self, intake: App) -> None:
        assert set(intake.http.get("/openapi.json").json()["webhooks"]) == {*EVENT_TYPES, "webhook.test"}

    def test_every_reference_leads_somewhere(self, intake: App) -> None:
        document = intake.http.get("/openapi.json").json()
        named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
        assert named <= set(document["components"]["schemas"])
        assert Problem.__name__ in named


def test_a_hundred_at_once_with_one_key_are_one_job(intake: App) -> None:
    png = picture("PNG", (64, 48))

    async def all_at_once() -> list[httpx.Response]:
        transport = httpx.ASGITransport(build_app(intake.context), client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await asyncio.gather(
                *(
                    client.post(
                        "/v1/jobs", data={"prompt": "?"}, files={"image": png}, headers={"Idempotency-Key": "K"}
                    )
                    for _ in range(100)
                )
            )

    assert intake.http.portal
    answers = intake.http.portal.call(all_at_once)
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
    assert len(intake.http.get("/v1/jobs").json()["data"]) == 1
    assert len(list(intake.objects.keys("jobs/"))) == 1
