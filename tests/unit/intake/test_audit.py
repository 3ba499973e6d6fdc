"""The audit line: who did what to which resource, and how it ended; no secret in it."""

import logging
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.intake.app_fixture import App
from tests.unit.intake.test_auth import bearer, make_key
from tests.unit.intake.test_isolation import Tenants, tenants

__all__ = ["tenants"]


def lines(logs: Any) -> list[dict[str, Any]]:
    return [entry for entry in logs if entry["event"] == "audit"]


def test_acts_on_secrets_and_deliveries_are_told_with_their_outcome(tenants: Tenants) -> None:
    app, own, headers = tenants.app, tenants.own, bearer(tenants.acme)
    with capture_logs() as logs:
        secret = app.http.post("/v1/webhooks/secret/rotate", headers=headers).json()["secret"]
        url = {"url": "https://93.184.215.14/hook?token=s3cret", "headers": {"Authorization": "Bearer s3cret"}}
        app.http.post("/v1/webhooks/test", json=url, headers=headers)
        app.http.post(f"/v1/jobs/{own['job']}/deliveries/{own['msg']}/redeliver", headers=headers)
        app.http.post(f"/v1/jobs/{own['job']}/retry", headers=headers)
        app.http.delete(f"/v1/jobs/{own['job']}", headers=headers)
    told = lines(logs)
    assert [(entry["act"], entry["target"], entry["outcome"]) for entry in told] == [
        ("webhook_secret.rotate", "acme", "done"),
        ("webhook.test", "93.184.215.14:443", "done"),
        ("delivery.redeliver", f"{own['job']}/{own['msg']}", "done"),
        ("job.retry", own["job"], "done"),
        ("job.delete", own["job"], "done"),
    ]
    assert {entry["principal"]["tenant"] for entry in told} == {"acme"}
    assert all(len(entry["principal"]["key"]) == 12 for entry in told)
    assert not [hidden for hidden in (secret, "s3cret", tenants.acme) if hidden in str(logs)]


@pytest.mark.parametrize(
    ("key", "outcome"),
    [("other", "not_found"), ("revoked", "invalid_key"), ("", "missing_key"), ("reader", "insufficient_scope")],
)
def test_refused_acts_are_told_too(tenants: Tenants, key: str, outcome: str) -> None:
    keys = {
        "other": tenants.other,
        "revoked": tenants.revoked,
        "reader": make_key(tenants.app, "acme", scopes=("read",)),
    }
    with capture_logs() as logs:
        tenants.app.http.delete(f"/v1/jobs/{tenants.own['job']}", headers=bearer(keys[key]) if key else {})
    (told,) = lines(logs)
    assert (told["act"], told["target"], told["outcome"]) == ("job.delete", tenants.own["job"], outcome)


def test_reading_is_not_audited(intake: App) -> None:
    with capture_logs() as logs:
        intake.http.get("/v1/jobs")
    assert lines(logs) == []


def test_no_log_line_holds_a_key(tenants: Tenants, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        for key in (tenants.acme, tenants.revoked, "tq_" + "f" * 40):
            tenants.app.http.get("/v1/jobs", headers=bearer(key))
            tenants.app.http.get(f"/v1/jobs?key={key}", headers=bearer(key))
    assert len(logs) >= 6
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("httpx")]
    assert "tq_" not in str(logs) + str(ours)
