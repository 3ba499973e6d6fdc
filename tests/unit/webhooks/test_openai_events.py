"""What a response and a batch of a file tell of their end: OpenAI's events, which its SDK verifies and types."""

import time
from dataclasses import replace
from typing import Any

import pytest
from openai import OpenAI
from openai.types import webhooks as typed

from shared.batches import Batch
from shared.deliveries import Delivery
from shared.ids import new_id
from shared.jobs import Job, State
from shared.openai.events import OpenAiEvent
from shared.openai.ids import response_id
from shared.records import OpenAiOptions, WebhookTarget
from shared.settings.roles import Settings
from shared.storage import MemoryStorage, result_key
from shared.store import secrets as webhook_secrets
from shared.store import transitions
from shared.store.client import Store, memory_store
from shared.views import WebhookEvent
from shared.webhooks import signing
from shared.webhooks.events import BATCH_ENDS, RESPONSE_ENDS
from tests.results import stored_result
from tests.unit.webhooks.test_dispatcher import make_dispatcher, sent
from workers.webhooks.payload import build_message

BACKGROUND = OpenAiOptions(api="responses", background=True)
SDK = OpenAI(api_key="EMPTY")


@pytest.fixture
def store() -> Store:
    return memory_store()


@pytest.fixture
def objects() -> MemoryStorage:
    return MemoryStorage()


def made(store: Store, events: tuple[str, ...] = RESPONSE_ENDS, payload: Any = "full", **changes: Any) -> Job:
    """Return a running job with a webhook of its own."""
    hook = WebhookTarget(url="https://example.org/", host="example.org:443", events=list(events), payload=payload)
    job = Job(id=new_id("job"), tenant="acme", model="m", start_within=60, run_within=60, retain=60, webhook=hook)
    made: dict[str, Any] = {"openai": BACKGROUND, "metadata": {"order": "4711"}} | changes
    job = replace(job, **made)
    store.run(transitions.submit(job.tenant, [job], max_queued=10, grace=0))
    assert store.run(transitions.claim("m", "worker", 60)).value
    return job


def end(store: Store, job: Job, state: State = State.SUCCEEDED, text: str = "A sign.", reason: Any = "stop") -> None:
    fields = {}
    if state is State.SUCCEEDED:
        fields = stored_result(text, finish_reason=reason).job_fields(result_key(job.id, 1))
    store.run(transitions.finish(job.id, 1, state, fields))


def unwrapped(store: Store, objects: MemoryStorage) -> Any:
    """Return the one message that is due, as the SDK verifies and types it."""
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due("")
    ((_, body, headers, _),) = sent(dispatcher).posted
    (secret,) = store.run(webhook_secrets.active_secrets("acme"))
    OpenAiEvent.model_validate_json(body, strict=True)
    return SDK.webhooks.unwrap(body, headers, secret=secret)


def test_an_answered_response_is_typed_by_the_sdk_and_holds_the_answer(store: Store, objects: MemoryStorage) -> None:
    job = made(store)
    end(store, job)
    event = unwrapped(store, objects)
    assert isinstance(event, typed.ResponseCompletedWebhookEvent)
    assert (event.object, event.data.id, event.id) == ("event", response_id(job.id), f"evt_{job.id[4:]}_succeeded")
    assert event.data.output[0]["content"][0]["text"] == "A sign."  # type: ignore[attr-defined]
    assert event.data.metadata == {"order": "4711"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [10, 20_000])
def test_a_response_cut_at_its_most_tokens_is_incomplete_also_where_its_record_has_no_output(
    store: Store, objects: MemoryStorage, size: int
) -> None:
    job = made(store, payload="thin")
    end(store, job, text="a" * size, reason="length")
    event = unwrapped(store, objects)
    assert isinstance(event, typed.ResponseIncompleteWebhookEvent)
    assert event.data.to_dict() == {
        "id": response_id(job.id),
        "object": "response",
        "status": "incomplete",
        "metadata": {"order": "4711"},
    }


@pytest.mark.parametrize(
    ("state", "kind"),
    [(State.FAILED, typed.ResponseFailedWebhookEvent), (State.CANCELLED, typed.ResponseCancelledWebhookEvent)],
)
def test_other_ends_have_types_of_their_own(
    store: Store, objects: MemoryStorage, state: State, kind: type[Any]
) -> None:
    end(store, made(store), state)
    event = unwrapped(store, objects)
    assert isinstance(event, kind)
    assert event.type == f"response.{event.data.status}"


@pytest.mark.parametrize(
    ("events", "openai", "told"),
    [
        (("job.succeeded",), BACKGROUND, "job.succeeded"),
        (("job.succeeded", "response.completed"), BACKGROUND, "response.completed"),
        (RESPONSE_ENDS, BACKGROUND.model_copy(update={"background": False}), "response.completed"),
        (("job.succeeded", "response.completed"), None, "job.succeeded"),
        (("job.succeeded",), OpenAiOptions(api="chat.completions"), "job.succeeded"),
    ],
)
def test_an_end_is_told_once_by_the_first_name_that_is_wanted(
    store: Store, objects: MemoryStorage, events: tuple[str, ...], openai: OpenAiOptions | None, told: str
) -> None:
    end(store, made(store, events, openai=openai))
    dispatcher = make_dispatcher(store, objects)
    dispatcher.deliver_due("")
    (body,) = sent(dispatcher).bodies
    assert body["type"] == told
    (OpenAiEvent if told.startswith("response.") else WebhookEvent).model_validate(body)


@pytest.mark.parametrize("type", BATCH_ENDS)
def test_a_batch_of_a_file_is_typed_by_the_sdk(type: str, objects: MemoryStorage) -> None:
    id = new_id("batch")
    record = {"id": id, "tenant": "acme", "total": "1", "created": "1", "metadata": '{"order": "4711"}'}
    delivery = Delivery.from_hash(
        [
            *("msg", f"msg_{id[6:]}_ended", "tenant", "acme", "subject", id, "type", type, "url", "", "host", ""),
            *(
                "payload",
                "full",
                "state",
                "pending",
                "turn",
                "1",
                "attempts",
                "0",
                "base",
                "0",
                "created",
                "1795600000",
            ),
        ],
        [],
    )
    body = build_message(delivery, (Batch.from_hash(record), []), objects, Settings()).body
    parsed = OpenAiEvent.model_validate_json(body, strict=True)
    assert parsed.model_dump()["data"] == {
        "id": id,
        "object": "batch",
        "status": type.removeprefix("batch."),
        "metadata": {"order": "4711"},
    }
    secret = signing.new_secret()
    event = SDK.webhooks.unwrap(body, signing.headers(delivery.msg, body, [secret], time.time()), secret=secret)
    assert (event.type, event.id, event.data.id) == (type, f"evt_{id[6:]}_ended", id)  # type: ignore[union-attr]
    assert isinstance(event, getattr(typed, f"Batch{type[6:].title()}WebhookEvent"))
