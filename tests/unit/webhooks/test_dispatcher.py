"""Claim, read, sign, send, record: over the in-process store, with a scripted answer for each attempt."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from shared.deliveries import Delivery
from shared.encryption import Keyring, new_key
from shared.errors import QueueUnavailable, StorageDown
from shared.ids import new_id
from shared.jobs import Job, State
from shared.keys import KEYLESS, ApiKey
from shared.records import WebhookTarget
from shared.settings.roles import Settings
from shared.storage import MemoryStorage
from shared.store import deliveries, keys, transitions
from shared.store import secrets as webhook_secrets
from shared.store.client import Store, memory_store
from shared.store.command import StoreCommand
from shared.webhooks import signing
from tests.message_ids import message_id
from tests.results import stored_result
from tests.waiting import eventually
from workers.webhooks import dispatcher as module
from workers.webhooks.client import DeliveryResponse, WebhookClient
from workers.webhooks.dispatcher import WebhookDispatcher

EVENTS = ["job.started", "job.succeeded", "job.failed", "job.cancelled", "job.expired"]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUICK = Settings(webhook_schedule=(0.01, 0.01))


class Scripted(WebhookClient):
    """Gives one answer after another, the last one for ever, and keeps what was posted."""

    def __init__(self, *answers: DeliveryResponse) -> None:
        super().__init__(QUICK)
        self.answers = list(answers) or [DeliveryResponse(status=204, seconds=0.1)]
        self.posted: list[tuple[str, str, dict[str, str], bool]] = []

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, keyless: bool) -> DeliveryResponse:
        self.posted.append((url, body.decode(), dict(headers), keyless))
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body, _, _ in self.posted]


@pytest.fixture
def store() -> Store:
    return memory_store()


@pytest.fixture
def objects() -> MemoryStorage:
    return MemoryStorage()


def make_dispatcher(
    store: Store, objects: MemoryStorage, *answers: DeliveryResponse, settings: Settings = QUICK
) -> WebhookDispatcher:
    return WebhookDispatcher(store, objects, Scripted(*answers), settings)


def sent(dispatcher: WebhookDispatcher) -> Scripted:
    assert isinstance(dispatcher.client, Scripted)
    return dispatcher.client


def running(store: Store, headers: dict[str, str] | None = None, **changes: Any) -> Job:
    hook = WebhookTarget(
        url="https://example.org/hook", host="example.org:443", events=list(EVENTS), headers=headers or {}
    )
    job = Job(id=new_id("job"), tenant="acme", model="m", start_within=60, run_within=60, retain=60)
    job = replace(job, webhook=hook, metadata={"order": "4711"}, trace=TRACE, **changes)
    store.run(transitions.submit(job.tenant, [job], max_queued=10, grace=0))
    held = store.run(transitions.claim("m", "worker", 60)).value
    assert held is not None
    return held


def finished(store: Store, state: State = State.SUCCEEDED, **fields: Any) -> str:
    """Return the message of a job that ended in `state`."""
    job = running(store)
    store.run(transitions.finish(job.id, job.attempt, state, fields))
    return message_id(job.id, state.value)


def read(store: Store, msg: str) -> Delivery:
    (delivery,) = store.run(deliveries.get([msg]))
    return delivery


def deliver_until(dispatcher: WebhookDispatcher, msg: str, state: str) -> Delivery:
    def look() -> Delivery | None:
        dispatcher.deliver_due(msg)
        delivery = read(dispatcher.store, msg)
        return delivery if delivery.state == state else None

    delivery = eventually(look)
    assert delivery is not None
    return delivery


def test_headers_of_the_client_are_sent_and_never_told(store: Store, objects: MemoryStorage) -> None:
    echo = DeliveryResponse(status=500, body=b'{"authorization": "Bearer s3cret-token"}')
    dispatcher = make_dispatcher(store, objects, echo)
    job = running(store, {"Authorization": "Bearer s3cret-token", "X-Gateway": "s3cret-key"})
    with capture_logs() as logs:
        dispatcher.deliver_due("")
    (_, body, headers, _) = sent(dispatcher).posted[0]
    assert (headers["Authorization"], headers["X-Gateway"]) == ("Bearer s3cret-token", "s3cret-key")
    assert "s3cret" not in body
    delivery = read(store, message_id(job.id, "started"))
    assert delivery.log[0]["body"] == '{"authorization": "[redacted]"}'
    assert "s3cret" not in repr(delivery) + repr(job)
    assert logs
    assert "s3cret" not in str(logs)


def test_headers_of_the_client_do_not_replace_ours(store: Store, objects: MemoryStorage) -> None:
    job = running(store)
    record = f"{store.prefix}hook:{message_id(job.id, 'started')}"
    store.client.hset(record, "headers", '{"webhook-id": "forged", "content-type": "text/plain"}')
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due("")
    (_, _, headers, _) = sent(dispatcher).posted[0]
    assert (headers["webhook-id"], headers["content-type"]) == (message_id(job.id, "started"), "application/json")


def test_one_hint_delivers_whatever_is_due(store: Store, objects: MemoryStorage) -> None:
    messages = [finished(store, output={"text": str(n), "finish_reason": "stop"}) for n in range(3)]
    dispatcher = make_dispatcher(store, objects)
    assert dispatcher.deliver_due(messages[0]) == 6  # started and succeeded of each
    assert dispatcher.deliver_due(messages[0]) == 0
    assert {read(store, msg).state for msg in messages} == {"delivered"}


def test_a_message_is_signed_by_every_active_secret_and_its_library_verifies_it(
    store: Store, objects: MemoryStorage
) -> None:
    old, new = signing.new_secret(), signing.new_secret()
    store.run(webhook_secrets.rotate_secret("acme", new, 60, old))
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due(finished(store))
    for _, body, headers, _ in sent(dispatcher).posted:
        assert len(headers["webhook-signature"].split()) == 2
        for secret in (old, new):
            Webhook(secret).verify(body, headers)
        assert headers["traceparent"] == TRACE
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"].startswith("tileq/")


def test_after_the_overlap_only_the_new_secret_signs(store: Store, objects: MemoryStorage) -> None:
    new = signing.new_secret()
    store.run(webhook_secrets.rotate_secret("acme", new, 0, signing.new_secret()))
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due(finished(store))
    _, body, headers, _ = sent(dispatcher).posted[0]
    assert len(headers["webhook-signature"].split()) == 1
    Webhook(new).verify(body, headers)


def test_the_keyless_tenant_signs_with_the_secret_of_the_settings(store: Store, objects: MemoryStorage) -> None:
    secret = signing.new_secret()
    settings = QUICK.model_copy(update={"webhook_secret": Settings(webhook_secret=secret).webhook_secret})
    dispatcher = make_dispatcher(store, objects, settings=settings)
    store.run(deliveries.add_test("msg_1", KEYLESS, "http://127.0.0.1/", "127.0.0.1:80"))
    dispatcher.deliver_due("msg_1")
    _, body, headers, keyless = sent(dispatcher).posted[0]
    Webhook(secret).verify(body, headers)
    assert keyless


def test_a_tenant_that_only_has_the_keyless_name_may_not_call_loopback(store: Store, objects: MemoryStorage) -> None:
    store.run(keys.put("digest", ApiKey(tenant=KEYLESS, name="k", created=1)))
    dispatcher = make_dispatcher(store, objects)
    store.run(deliveries.add_test("msg_1", KEYLESS, "http://127.0.0.1/", "127.0.0.1:80"))
    dispatcher.deliver_due("msg_1")
    assert [keyless for *_, keyless in sent(dispatcher).posted] == [False]


def test_the_body_is_the_job_as_the_api_shows_it(store: Store, objects: MemoryStorage) -> None:
    msg = finished(store, output={"text": "你好", "finish_reason": "stop"}, usage={"completion_tokens": 2})
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due(msg)
    started, ended = sent(dispatcher).bodies
    assert (started["type"], ended["type"]) == ("job.started", "job.succeeded")
    data = ended["data"]
    assert data["output"] == {"text": "你好", "finish_reason": "stop"}
    assert (data["state"], data["metadata"], data["webhook"]["state"]) == ("succeeded", {"order": "4711"}, "pending")
    assert ended["timestamp"].endswith("Z")


def test_word_of_the_start_tells_of_the_start_however_late_it_comes(store: Store, objects: MemoryStorage) -> None:
    error = {"code": "internal", "message": "x", "retryable": False, "image": None}
    msg = finished(
        store, State.FAILED, error=error, stage="decode", tiles=13, completion_tokens=7, timings={"queue": 1.0}
    )
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due(msg)
    data = sent(dispatcher).bodies[0]["data"]
    assert (data["state"], data["attempt"], data["error"], data["output"]) == ("running", 1, None, None)
    assert (data["ended_at"], data["expires_at"], data["usage"], data["timings"]) == (None, None, None, None)
    assert data["progress"] == {"stage": "fetch", "tiles": 0, "prompt_tokens": 0, "completion_tokens": 0}
    assert data["started_at"] is not None


def test_a_start_that_waited_until_long_after_the_end_is_not_sent(
    store: Store, objects: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SUPERSEDED_MAX_AGE_S", -1)
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due(finished(store))
    assert [body["type"] for body in sent(dispatcher).bodies] == ["job.succeeded"]


def test_a_start_that_is_asked_for_again_by_hand_is_sent(store: Store, objects: MemoryStorage) -> None:
    dispatcher = make_dispatcher(store, objects)
    msg = finished(store).replace("succeeded", "started")
    deliver_until(dispatcher, msg, "delivered")
    assert store.run(deliveries.redeliver("acme", f"job_{msg[4:40]}", msg)) == "delivered"
    deliver_until(dispatcher, msg, "delivered")
    assert [body["type"] for body in sent(dispatcher).bodies].count("job.started") == 2


@pytest.mark.parametrize("event", ["started", "succeeded"])
def test_every_attempt_sends_the_same_bytes_under_the_same_id(store: Store, objects: MemoryStorage, event: str) -> None:
    job = running(store)
    dispatcher = make_dispatcher(store, objects, DeliveryResponse(status=500))
    msg = message_id(job.id, event)
    if event == "started":
        dispatcher.deliver_due(msg)
        store.run(transitions.heartbeat([(job.id, 1, {"stage": "decode", "tiles": 13, "completion_tokens": 9})], 60))
    else:
        store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {"output": {"text": "a", "finish_reason": "stop"}}))
    deliver_until(dispatcher, msg, "failed")
    attempts = [body for _, body, headers, _ in sent(dispatcher).posted if headers["webhook-id"] == msg]
    assert len(attempts) == 3
    assert len(set(attempts)) == 1


def test_the_start_is_not_announced_again_once_the_job_has_ended(store: Store, objects: MemoryStorage) -> None:
    job = running(store)
    later = Settings(webhook_schedule=(0.5, 0.01))  # not within the first call
    answers = DeliveryResponse(status=500), DeliveryResponse(status=200)
    dispatcher = make_dispatcher(store, objects, *answers, settings=later)
    started, ended = message_id(job.id, "started"), message_id(job.id, "succeeded")
    dispatcher.deliver_due(started)
    store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {"output": {"text": "a", "finish_reason": "stop"}}))
    deliver_until(dispatcher, ended, "delivered")
    delivery = deliver_until(dispatcher, started, "failed")
    assert [body["type"] for body in sent(dispatcher).bodies] == ["job.started", "job.succeeded"]
    assert delivery.log[-1]["error"] == "not sent: the job has ended since"


def test_messages_of_one_job_carry_their_order(store: Store, objects: MemoryStorage) -> None:
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due(finished(store, output={"text": "a", "finish_reason": "stop"}))
    assert [(body["type"], body["sequence"]) for body in sent(dispatcher).bodies] == [
        ("job.started", 1),
        ("job.succeeded", 2),
    ]


def test_a_large_output_is_read_from_the_result(store: Store, objects: MemoryStorage) -> None:
    objects.put("result", stored_result("long").to_bytes(), "application/json")
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due(finished(store, result="result"))
    assert sent(dispatcher).bodies[1]["data"]["output"] == {"text": "long", "finish_reason": "stop"}


def test_a_result_that_is_gone_fails_the_message_and_says_so(store: Store, objects: MemoryStorage) -> None:
    msg = finished(store, result="gone")
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due(msg)
    delivery = read(store, msg)
    assert (delivery.state, delivery.log[0]["status"]) == ("failed", None)
    assert "gone" in delivery.log[0]["error"]


def test_a_storage_that_is_down_costs_a_message_no_attempt(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Down(MemoryStorage):
        def get(self, key: str, size: int | None = None) -> bytes:
            raise StorageDown("down")

    monkeypatch.setattr(module, "RELEASE_DELAY_S", 0.01)
    msg = finished(store, result="result")
    down = make_dispatcher(store, Down())
    down.deliver_due(msg)
    assert (read(store, msg).state, read(store, msg).attempts) == ("pending", 0)
    up = MemoryStorage()
    up.put("result", stored_result().to_bytes(), "application/json")
    assert deliver_until(make_dispatcher(store, up), msg, "delivered").attempts == 1


def test_a_message_that_cannot_be_built_ends_with_its_schedule(store: Store, objects: MemoryStorage) -> None:
    objects.put("result", b"not json", "application/json")
    dispatcher = make_dispatcher(store, objects)
    delivery = deliver_until(dispatcher, finished(store, result="result"), "failed")
    assert [attempt["error"] for attempt in delivery.log] == ["tileq could not build the message"] * 3
    assert [body["type"] for body in sent(dispatcher).bodies] == ["job.started"]


def test_a_message_read_too_late_is_not_sent_beside_another_dispatcher(
    store: Store, objects: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    msg = finished(store)
    dispatcher = make_dispatcher(store, objects)
    monkeypatch.setattr(module, "BUILD_TIMEOUT_S", -1.0)
    dispatcher.deliver_due(msg)
    assert sent(dispatcher).posted == []
    assert read(store, msg).attempts == 0


def test_attempts_are_written_down_as_the_api_shows_them(store: Store, objects: MemoryStorage) -> None:
    msg = finished(store)
    dispatcher = make_dispatcher(
        store,
        objects,
        DeliveryResponse(status=204),  # started
        DeliveryResponse(error="no response within 1 s", seconds=1.00049),
        DeliveryResponse(status=302, body=b"\x00\xffmoved\n" + b"x" * 5000, seconds=0.5),
        DeliveryResponse(status=410),
    )
    delivery = deliver_until(dispatcher, msg, "failed")
    silent, moved, gone = delivery.log
    assert (silent["status"], silent["seconds"], silent["error"]) == (None, 1.0, "no response within 1 s")
    assert (moved["status"], moved["error"]) == (302, "answered 302; redirects are not followed")
    assert moved["body"].startswith(" \ufffdmoved xxx")
    assert len(moved["body"]) == 512
    assert silent["at"] <= silent["next_at"] <= moved["at"]
    assert (gone["error"], gone["next_at"]) == ("answered 410; no further attempt is made", None)
    job = store.run(transitions.read_job("", delivery.subject))
    assert job is not None
    assert (job.hook_state, job.hook_attempts) == ("failed", 3)


def test_a_thin_message_reads_no_result(store: Store, objects: MemoryStorage) -> None:
    hook = WebhookTarget(url="https://example.org/", host="example.org:443", payload="thin", events=["job.succeeded"])
    job = Job(id=new_id("job"), tenant="acme", model="m", start_within=60, run_within=60, retain=60, webhook=hook)
    store.run(transitions.submit("acme", [job], max_queued=10, grace=0))
    store.run(transitions.claim("m", "worker", 60))
    store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {"result": "gone"}))
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due("")
    (body,) = sent(dispatcher).bodies
    assert set(body["data"]) == {"id", "object", "state", "metadata", "expires_at"}


def test_a_batch_and_a_test_have_bodies_of_their_own(store: Store, objects: MemoryStorage) -> None:
    hook = {"url": "https://example.org/", "host": "example.org:443", "payload": "full", "events": ["batch.ended"]}
    batch = {"id": new_id("batch"), "tenant": "acme", "total": "1", "webhook": json.dumps(hook)}
    job = Job(id=new_id("job"), tenant="acme", model="m", start_within=60, run_within=60, retain=60, batch=batch["id"])
    store.run(transitions.submit("acme", [job], max_queued=10, grace=0, batch=batch))
    store.run(transitions.claim("m", "worker", 60))
    store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {}))
    store.run(deliveries.add_test("msg_1", "acme", "https://example.com/", "example.com:443"))
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due("")
    ended, test = sorted(sent(dispatcher).bodies, key=lambda body: str(body["type"]))
    assert (ended["type"], ended["data"]["id"], ended["data"]["counts"]["succeeded"]) == ("batch.ended", batch["id"], 1)
    assert ended["data"]["webhook"]["state"] == "pending"
    assert (test["type"], test["data"]) == ("webhook.test", {"id": "msg_1", "object": "test"})


def test_a_deleted_jobs_message_is_not_sent(store: Store, objects: MemoryStorage) -> None:
    msg = finished(store)
    store.run(transitions.delete("acme", read(store, msg).subject))
    dispatcher = make_dispatcher(store, objects)
    assert dispatcher.deliver_due(msg) == 0
    assert sent(dispatcher).posted == []


def test_a_dispatcher_that_stops_begins_nothing_new(store: Store, objects: MemoryStorage) -> None:
    finished(store)
    scripted = Scripted()
    dispatcher = WebhookDispatcher(store, objects, scripted, QUICK, stopping=lambda: len(scripted.posted) == 1)
    assert dispatcher.deliver_due("") == 1


def test_an_attempt_is_recorded_although_the_store_fails_for_a_moment(
    store: Store, objects: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    msg = finished(store)
    dispatcher = make_dispatcher(store, objects)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(dispatcher, "store", Flaky(store))
    dispatcher.deliver_due(msg)
    assert read(store, msg).state == "delivered"
    assert [headers["webhook-id"] for _, _, headers, _ in sent(dispatcher).posted].count(msg) == 1


class Flaky(Store):
    """Loses the answer of every first `delivery_finish`."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.client, store.prefix)
        self._lost: set[object] = set()

    def run(self, call: StoreCommand[Any]) -> Any:
        answer = super().run(call)
        if call.script == "delivery_finish" and call.args not in self._lost:
            self._lost.add(call.args)
            raise QueueUnavailable("the answer was lost")
        return answer


def encrypted_delivery(store: Store, keyring: Keyring) -> str:
    headers = keyring.encrypt_headers({"Authorization": "Bearer s3cret-token"}, "acme")
    msg = new_id("msg")
    store.run(deliveries.add_test(msg, "acme", "https://a.example/hook", "a.example:443", headers=headers))
    return msg


def test_encrypted_headers_and_secrets_are_sent_and_sign_in_plain(store: Store, objects: MemoryStorage) -> None:
    settings = Settings(webhook_schedule=(0.01,), secrets_key=SecretStr(new_key()))
    encrypted_delivery(store, settings.keyring)
    dispatcher = make_dispatcher(store, objects, settings=settings)
    dispatcher.deliver_due("")
    ((_, body, headers, _),) = sent(dispatcher).posted
    assert headers["Authorization"] == "Bearer s3cret-token"
    (secret,) = store.run(webhook_secrets.active_secrets("acme", "", settings.keyring))
    Webhook(secret).verify(body, headers)


def test_a_message_whose_key_is_missing_is_put_off_and_sent_once_it_is_back(
    store: Store, objects: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DECRYPTION_RETRY_DELAY_S", 0.0)
    settings = Settings(webhook_schedule=(0.01,), secrets_key=SecretStr(new_key()))
    msg = encrypted_delivery(store, settings.keyring)
    keyless = make_dispatcher(store, objects)
    monkeypatch.setattr(module, "MAX_PER_HINT", 1)
    with capture_logs() as logs:
        keyless.deliver_due("")
    assert sent(keyless).posted == []
    assert [entry["code"] for entry in logs if "code" in entry] == ["secrets_key_missing"]
    assert "s3cret" not in str(logs)
    (waiting,) = store.run(deliveries.get([msg]))
    assert (waiting.state, waiting.attempts) == ("pending", 0)
    dispatcher = make_dispatcher(store, objects, settings=settings)
    dispatcher.deliver_due("")
    assert len(sent(dispatcher).posted) == 1
