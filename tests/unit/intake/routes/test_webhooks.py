"""What was sent to a webhook, and sending again."""

import pytest
from pydantic import SecretStr

from services.intake.schemas.responses import DeliveryList, SecretBody, WebhookTestBody
from shared.encryption import new_key
from shared.keys import KEYLESS
from shared.store import batches, deliveries
from shared.store import secrets as webhook_secrets
from shared.webhooks import signing
from tests.unit.intake.app_fixture import App, once_waiting, problem, running_app

HOOK = {"url": "http://127.0.0.1:9009/hook", "events": ["job.succeeded", "job.failed"]}


def test_each_message_with_every_attempt(intake: App) -> None:
    id = intake.answered(webhook=HOOK)
    url = f"/v1/jobs/{id}/deliveries"
    waiting = intake.http.get(url).json()["data"]
    assert [(one["id"], one["state"], one["attempts"]) for one in waiting] == [
        (f"msg_{id[4:]}_succeeded", "pending", [])
    ]
    intake.deliver()
    (sent,) = intake.http.get(url).json()["data"]
    assert (sent["state"], sent["type"], sent["url"], sent["next_at"]) == (
        "delivered",
        "job.succeeded",
        HOOK["url"],
        None,
    )
    assert sent["attempts"] == [
        {"at": "2026-11-23T20:15:00.123Z", "status": 200, "seconds": 0.1, "error": None, "body": "ok", "next_at": None}
    ]
    DeliveryList.model_validate({"data": [sent]}, strict=True)


SECRET = {"headers": {"Authorization": "Bearer s3cret-token"}}


def test_headers_are_accepted_and_sent_and_shown_nowhere(intake: App) -> None:
    id = intake.answered(webhook=HOOK | SECRET)
    (delivery,) = intake.store.run(deliveries.get([f"msg_{id[4:]}_succeeded"]))
    assert delivery.headers == SECRET["headers"]
    batch = intake.http.post("/v1/batches", json={"jobs": [{"prompt": "?"}], "webhook": {"url": HOOK["url"]} | SECRET})
    assert batch.status_code == 202, batch.text
    paths = (f"/v1/jobs/{id}", "/v1/jobs", f"/v1/jobs/{id}/deliveries", f"/v1/batches/{batch.json()['id']}")
    answers = [intake.http.get(path) for path in paths]
    answers += [intake.http.post(f"/v1/jobs/{id}/retry"), intake.http.post(f"/v1/jobs/{id}/cancel"), batch]
    for answer in answers:
        assert answer.is_success, answer.text
        assert "s3cret" not in answer.text
    retried = intake.job(answers[-3].json()["id"]).webhook
    assert retried is not None
    assert retried.headers == SECRET["headers"]
    found = intake.store.run(batches.get(KEYLESS, batch.json()["id"]))
    assert found is not None
    assert found[0].webhook is not None
    assert found[0].webhook.headers == SECRET["headers"]


def test_with_a_key_headers_and_secrets_are_stored_encrypted_only() -> None:
    with running_app(secrets_key=SecretStr(new_key()), webhook_secret=SecretStr(signing.new_secret())) as intake:
        id = intake.answered(webhook=HOOK | SECRET)
        batch = {"jobs": [{"prompt": "?"}], "webhook": {"url": HOOK["url"]} | SECRET}
        assert intake.http.post("/v1/batches", json=batch).status_code == 202
        assert intake.http.post(f"/v1/jobs/{id}/retry").status_code == 202
        rotated = intake.http.post("/v1/webhooks/secret/rotate").json()["secret"]
        (delivery,) = intake.store.run(deliveries.get([f"msg_{id[4:]}_succeeded"]))
        assert intake.settings.keyring.decrypt_headers(delivery.headers, KEYLESS) == SECRET["headers"]
        stored = [intake.objects.get(key).decode(errors="replace") for key in intake.objects.keys("")]
        for name in intake.store.client.scan_iter(_type="hash"):
            stored += map(str, intake.store.client.hvals(name))
        given = intake.settings.webhook_secret.get_secret_value()
        assert not [text for text in stored if "s3cret" in text or rotated in text or given in text]
        assert sum("enc:v1:" in text for text in stored) >= 8


@pytest.mark.parametrize("name", ["Host", "Webhook-Signature", "Content-Length", "x y"])
def test_a_header_that_can_not_be_sent_is_refused_by_name_and_without_its_value(intake: App, name: str) -> None:
    answer = intake.submit("?", webhook=HOOK | {"headers": {name: "s3cret"}})
    body = problem(answer, 422, "invalid_field")
    assert name.lower() in body["detail"].lower()
    assert "s3cret" not in answer.text


def test_a_job_without_a_webhook_has_none(intake: App) -> None:
    assert intake.http.get(f"/v1/jobs/{intake.answered()}/deliveries").json() == {"data": []}


def test_once_more_on_a_fresh_schedule(intake: App) -> None:
    id = intake.answered(webhook=HOOK)
    msg = intake.deliver("failed", 500)
    answer = intake.http.post(f"/v1/jobs/{id}/deliveries/{msg}/redeliver")
    assert (answer.status_code, answer.json()["state"], answer.json()["id"]) == (202, "pending", msg)
    intake.context.publisher.close()
    assert intake.hints.sent[-1] == ("deliveries", msg)
    assert intake.deliver() == msg
    assert intake.http.get(f"/v1/jobs/{id}").json()["webhook"]["state"] == "delivered"


@pytest.mark.parametrize("msg", ["msg_x", "x", "msg_" + "0" * 36, "%00"])
def test_a_message_that_is_none_is_not_found(intake: App, msg: str) -> None:
    problem(intake.http.post(f"/v1/jobs/{intake.answered()}/deliveries/{msg}/redeliver"), 404, "not_found")


def test_a_message_of_another_job_is_not_found(intake: App) -> None:
    intake.answered(webhook=HOOK)
    msg = intake.deliver()
    problem(intake.http.post(f"/v1/jobs/{intake.answered()}/deliveries/{msg}/redeliver"), 404, "not_found")


class TestTesting:
    """`POST /v1/webhooks/test`."""

    def test_it_tells_how_it_went(self, intake: App) -> None:
        dispatcher = once_waiting(intake, intake.deliver)
        answer = intake.http.post("/v1/webhooks/test", json={"url": HOOK["url"]})
        dispatcher.join()
        body = answer.json()
        assert (answer.status_code, body["state"], body["status"], body["seconds"]) == (200, "delivered", 200, 0.1)
        WebhookTestBody.model_validate(body, strict=True)
        intake.context.publisher.close()
        assert intake.hints.sent == [("deliveries", body["msg"])]

    def test_or_that_it_takes_longer(self, intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("services.intake.webhook_tests.TEST_WAIT_S", 0.1)
        body = intake.http.post("/v1/webhooks/test", json={"url": HOOK["url"]}).json()
        assert (body["state"], body["status"], body["error"]) == ("pending", None, None)

    @pytest.mark.parametrize(
        "body", [{}, {"url": 1}, {"url": ""}, {"url": "https://a.example", "x": 1}, {"url": "h" * 3000}]
    )
    def test_what_is_no_url_is_refused(self, intake: App, body: dict[str, object]) -> None:
        problem(intake.http.post("/v1/webhooks/test", json=body), 422, "invalid_field")

    def test_where_it_may_not_go_is_refused(self) -> None:
        with running_app(api_keys=("acme=tq_k",)) as intake:
            headers = {"Authorization": "Bearer tq_k"}
            answer = intake.http.post("/v1/webhooks/test", json={"url": "http://127.0.0.1:6379"}, headers=headers)
            assert problem(answer, 422, "webhook_refused")["field"] == "url"

    def test_a_form_is_not_taken(self, intake: App) -> None:
        problem(intake.http.post("/v1/webhooks/test", data={"url": "x"}), 415, "unsupported_media_type")


class TestSecret:
    """`POST /v1/webhooks/secret/rotate`."""

    def test_both_sign_during_the_overlap(self, intake: App) -> None:
        (before,) = intake.store.run(webhook_secrets.active_secrets(KEYLESS, signing.new_secret()))
        answer = intake.http.post("/v1/webhooks/secret/rotate", json={"overlap": 60})
        body = SecretBody.model_validate(answer.json(), strict=True)
        assert intake.store.run(webhook_secrets.active_secrets(KEYLESS, "")) == [body.secret, before]
        assert signing.secret_problem(body.secret) is None
        assert answer.headers["cache-control"] == "no-store"

    def test_without_an_overlap_the_one_before_is_dead(self, intake: App) -> None:
        secret = intake.http.post("/v1/webhooks/secret/rotate", json={"overlap": 0}).json()["secret"]
        assert intake.store.run(webhook_secrets.active_secrets(KEYLESS, "")) == [secret]

    def test_the_secret_of_the_settings_is_the_one_before(self) -> None:
        given = signing.new_secret()
        with running_app(webhook_secret=given) as intake:
            secret = intake.http.post("/v1/webhooks/secret/rotate").json()["secret"]
            assert intake.store.run(webhook_secrets.active_secrets(KEYLESS, "")) == [secret, given]

    @pytest.mark.parametrize("overlap", [-1, "60", True, 10**9, None])
    def test_an_overlap_that_is_none_is_refused(self, intake: App, overlap: object) -> None:
        problem(intake.http.post("/v1/webhooks/secret/rotate", json={"overlap": overlap}), 422, "invalid_field")
