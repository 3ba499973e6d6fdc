"""Messages to webhook endpoints: signed by the endpoint's own secrets, sent to where it is now."""

from typing import Any

import pytest
from standardwebhooks import Webhook

from shared.ids import new_id
from shared.jobs import Job, State
from shared.keys import ApiKey
from shared.storage import MemoryStorage
from shared.store import deliveries, endpoints, keys, transitions
from shared.store.client import Store, memory_store
from shared.webhooks import signing
from tests.unit.webhooks.test_dispatcher import make_dispatcher, sent
from workers.webhooks.client import DeliveryResponse

FIRST, SECOND = signing.new_secret(), signing.new_secret()


@pytest.fixture
def store() -> Store:
    found = memory_store()
    found.run(keys.put("k", ApiKey("acme", "", 1)))
    return found


def endpoint(store: Store, **changes: str) -> str:
    id = new_id("we")
    record = {"id": id, "tenant": "acme", "name": "a", "url": "https://a/", "host": "a:443", "payload": "thin"}
    record |= {"events": '["job.succeeded", "job.started"]', "secret": FIRST, "hint": "abcd", "headers": '{"X-A": "b"}'}
    assert store.run(endpoints.put(record | changes, 20))[0] == "created"
    return id


def ended(store: Store) -> str:
    job = Job(id=new_id("job"), tenant="acme", model="m", start_within=60, run_within=60, retain=60)
    store.run(transitions.submit("acme", [job], max_queued=10, grace=0))
    store.run(transitions.claim("m", "worker", 60))
    store.run(transitions.finish(job.id, 1, State.SUCCEEDED, {}))
    return job.id


def posted(store: Store, *answers: DeliveryResponse) -> list[tuple[str, str, dict[str, str], bool]]:
    dispatcher = make_dispatcher(store, MemoryStorage(), *answers)
    dispatcher.deliver_due("")
    return sent(dispatcher).posted


def test_both_secrets_of_a_rotation_sign_and_the_endpoints_headers_are_sent(store: Store) -> None:
    id = endpoint(store, events='["job.succeeded"]')
    store.run(endpoints.rotate("acme", id, {"secret": SECOND, "hint": "x"}, 60, ""))
    job = ended(store)
    ((url, body, headers, _),) = posted(store)
    assert (url, headers["X-A"], headers["webhook-id"]) == ("https://a/", "b", f"msg_{job[4:]}_succeeded_{id[3:]}")
    for secret in (FIRST, SECOND):
        Webhook(secret).verify(body, headers)


def test_an_endpoint_stored_before_secrets_had_a_key_of_their_own_signs_and_is_rotated(store: Store) -> None:
    id = endpoint(store, events='["job.succeeded"]')
    name = f"{store.prefix}endpoint_secret:{id}"
    for field, value in store.client.hgetall(name).items():
        store.client.hset(f"{store.prefix}endpoint:{id}", str(field), str(value))
    store.client.delete(name)
    ended(store)
    ((_, body, headers, _),) = posted(store)
    Webhook(FIRST).verify(body, headers)
    rotated = store.run(endpoints.rotate("acme", id, {"secret": SECOND, "hint": "x"}, 60, ""))
    assert rotated is not None
    assert (rotated.secrets, rotated.headers) == ([SECOND, FIRST], {"X-A": "b"})
    assert not store.client.hexists(f"{store.prefix}endpoint:{id}", "secret")


def test_a_message_that_waits_goes_to_the_new_url(store: Store) -> None:
    id = endpoint(store, events='["job.succeeded"]')
    ended(store)
    store.run(endpoints.update("acme", id, {"url": "https://b/", "host": "b:443"}))
    assert [url for url, _, _, _ in posted(store)] == ["https://b/"]


def test_a_message_to_a_deleted_endpoint_is_not_sent(store: Store) -> None:
    id = endpoint(store, events='["job.succeeded"]')
    job = ended(store)
    store.run(endpoints.delete("acme", id))
    assert posted(store) == []
    ids = store.run(deliveries.list_for("job", job))
    (message,) = store.run(deliveries.get(ids))
    assert (message.state, message.log[0]["error"]) == ("failed", f"the webhook endpoint {id} was deleted")


def test_other_tenants_jobs_are_not_told(store: Store) -> None:
    endpoint(store, tenant="other")
    ended(store)
    assert posted(store) == []


@pytest.mark.parametrize(
    ("type", "data"),
    [
        ("response.failed", {"object": "response", "status": "failed", "metadata": {}}),
        ("batch.expired", {"object": "batch", "status": "expired", "metadata": {}}),
        ("job.started", {"object": "job", "state": "running", "metadata": {}, "expires_at": None}),
    ],
)
def test_a_test_is_a_marked_example(store: Store, type: str, data: dict[str, Any]) -> None:
    id, msg = endpoint(store), new_id("msg")
    store.run(deliveries.add_test(msg, "acme", "https://a/", "a:443", type=type, endpoint=id))
    dispatcher = make_dispatcher(store, MemoryStorage())
    dispatcher.deliver_due(msg)
    (body,) = sent(dispatcher).bodies
    assert (body["type"], body["test"]) == (type, True)
    assert {name: body["data"][name] for name in data} == data
