"""What every answer carries, and what the public port does not serve."""

import pytest

from services.intake.routes.system import REASON_ELSEWHERE
from tests.unit.intake.app_fixture import App, problem, running_app
from tests.unit.intake.test_isolation import CALLS, Call, Tenants, tenants
from tests.waiting import eventually

__all__ = ["tenants"]


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_no_answer_is_sniffed_run_framed_or_kept_by_a_cache_that_is_shared(tenants: Tenants, call: Call) -> None:
    for key in (tenants.acme, None):
        headers = call.send(tenants.app, tenants.own, key).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'; sandbox"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] in {"no-store", "private, max-age=3600"}
        assert "access-control-allow-origin" not in headers
        assert "server" not in headers


@pytest.mark.parametrize("path", ["/openapi.json", "/nothing", "/v1/jobs/x"])
def test_neither_do_documents_and_errors(intake: App, path: str) -> None:
    headers = intake.http.get(path).headers
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert "sandbox" in headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/metrics", "/livez", "/admin", "/debug", "/static", "/"])
def test_the_public_port_serves_no_documentation_metrics_or_administration(intake: App, path: str) -> None:
    problem(intake.http.get(path), 404, "not_found")


def test_the_document_can_be_switched_off() -> None:
    with running_app(openapi=False) as intake:
        assert "openapi" not in problem(intake.http.get("/openapi.json"), 404, "not_found")["detail"]


def test_readiness_names_servers_to_this_machine_only() -> None:
    for client, told in (("127.0.0.1", "10.1.2.3:6379"), ("10.0.0.7", REASON_ELSEWHERE)):
        with running_app(client=client, api_keys=("acme=tq_k",)) as intake:
            intake.hints.down = "Error 111 connecting to 10.1.2.3:6379"
            eventually(lambda: intake.http.get("/readyz").status_code == 503)  # a report is kept for a second
            answer = intake.http.get("/readyz")
            broker = answer.json()["dependencies"]["broker"]
            assert told in broker["reason"]
            assert ("10.1.2.3" in answer.text) is (client == "127.0.0.1")
