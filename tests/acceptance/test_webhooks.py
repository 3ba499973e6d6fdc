"""Answers that arrive by themselves."""

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tests.acceptance.client import Client
from tests.receiver import Receiver
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance


def secret(api: Client, overlap: int = 60) -> str:
    answer = api.http.post("/v1/webhooks/secret/rotate", json={"overlap": overlap})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["secret"])


def test_the_answer_arrives_signed_and_whole(api: Client, hook: Receiver) -> None:
    key = secret(api)
    with hook.up():
        job = api.submit("Call me.", webhook={"url": hook.url}, metadata={"order": "1"})
        eventually(lambda: hook.arrived, 40)
    arrived = hook.arrived[0]
    event = Webhook(key).verify(arrived.body, arrived.headers)
    assert event["type"] == "job.succeeded"
    assert event["data"]["id"] == job["id"]
    assert event["data"]["metadata"] == {"order": "1"}
    assert event["data"]["output"] == api.job(job["id"])["output"]
    assert "." not in arrived.headers["webhook-id"]
    eventually(lambda: api.job(job["id"])["webhook"]["state"] == "delivered")


def test_both_secrets_sign_during_the_overlap(api: Client, hook: Receiver) -> None:
    old, new = secret(api), secret(api)
    with hook.up():
        api.submit("Twice signed.", webhook={"url": hook.url})
        arrived = eventually(lambda: hook.arrived, 40)[0]
    for key in (old, new):
        Webhook(key).verify(arrived.body, arrived.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").verify(arrived.body, arrived.headers)


def test_a_receiver_that_was_down_hears_of_it_when_it_is_back(api: Client, hook: Receiver) -> None:
    job = api.submit("Are you there?", webhook={"url": hook.url})
    api.ended(job["id"])
    message = eventually(lambda: api.http.get(f"/v1/jobs/{job['id']}/deliveries").json()["data"])[0]
    eventually(lambda: api.job(job["id"])["webhook"]["attempts"] >= 1)
    eventually(lambda: api.http.get(f"/v1/jobs/{job['id']}/deliveries").json()["data"][0]["next_at"])
    with hook.up():
        eventually(lambda: api.job(job["id"])["webhook"]["state"] == "delivered", 40)
    log = api.http.get(f"/v1/jobs/{job['id']}/deliveries").json()["data"][0]
    attempts = log["attempts"]
    assert [bool(attempt["status"]) for attempt in attempts] == [False] * (len(attempts) - 1) + [True]
    assert attempts[0]["error"]
    assert log["next_at"] is None
    assert {one.headers["webhook-id"] for one in hook.arrived} == {message["id"]}


def test_a_message_can_be_delivered_again_by_hand(api: Client, hook: Receiver) -> None:
    with hook.up():
        job = api.submit("Again, please.", webhook={"url": hook.url})
        eventually(lambda: api.job(job["id"])["webhook"]["state"] == "delivered", 40)
        message = api.http.get(f"/v1/jobs/{job['id']}/deliveries").json()["data"][0]["id"]
        assert api.http.post(f"/v1/jobs/{job['id']}/deliveries/{message}/redeliver").status_code in (200, 202)
        eventually(lambda: len(hook.arrived) == 2)
    assert hook.arrived[0].body == hook.arrived[1].body
    assert hook.arrived[0].headers["webhook-id"] == hook.arrived[1].headers["webhook-id"]


def test_a_gone_receiver_is_not_called_again(api: Client, hook: Receiver) -> None:
    hook.status = 410
    with hook.up():
        job = api.submit("Gone?", webhook={"url": hook.url})
        eventually(lambda: api.job(job["id"])["webhook"]["state"] == "failed", 40)
    assert len(hook.arrived) == 1


def test_a_thin_webhook_tells_the_state_and_nothing_of_the_answer(api: Client, hook: Receiver) -> None:
    with hook.up():
        api.submit("Thin.", webhook={"url": hook.url, "payload": "thin", "events": ["job.started", "job.succeeded"]})
        eventually(lambda: len(hook.arrived) == 2, 40)
    assert sorted(hook.types()) == ["job.started", "job.succeeded"]
    assert set(hook.arrived[-1].json["data"]) >= {"id", "state", "metadata", "expires_at"}
    assert "output" not in hook.arrived[-1].json["data"]


def test_the_test_call_tells_how_one_delivery_went(api: Client, hook: Receiver) -> None:
    with hook.up():
        there = api.http.post("/v1/webhooks/test", json={"url": hook.url})
    assert there.status_code == 200
    assert hook.types() == ["webhook.test"]
    assert there.json()["state"] == "delivered"
    gone = api.http.post("/v1/webhooks/test", json={"url": hook.url})
    assert gone.json()["state"] == "failed"
