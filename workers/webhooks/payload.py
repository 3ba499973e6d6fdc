"""Builds webhook messages: the same bytes at every attempt, from a record that no longer changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared import views
from shared.batches import Batch
from shared.deliveries import Delivery
from shared.errors import NotFound
from shared.jobs import Job, State
from shared.openai.events import batch_data, thin_response
from shared.openai.responses import response_body
from shared.results import StoredResult
from shared.settings.webhooks import WebhookSettings
from shared.storage import ObjectStorage
from shared.store import batches, transitions
from shared.store.command import StoreCommand
from shared.webhooks import signing
from shared.webhooks.events import is_openai


@dataclass(frozen=True)
class WebhookMessage:
    """A body, and the traceparent of the request that led to it ("" where there is none)."""

    body: str
    trace: str = ""
    superseded: bool = False  #: it announces a state that its job has left for good


def read_subject(delivery: Delivery) -> StoreCommand[Any]:
    """What reads that which `delivery` tells of."""
    if delivery.type.startswith("batch."):
        return batches.get("", delivery.subject, 0, 0)
    return transitions.read_job("", delivery.subject)  # a test tells of none


def build_message(
    delivery: Delivery, subject: Any, objects: ObjectStorage, settings: WebhookSettings
) -> WebhookMessage:
    """Return the message of `delivery`; `subject` is what `read_subject` found.

    Raises `NotFound` where its job or batch was deleted, `ObjectMissing` where the result was, and `StorageDown` where
    the object storage does not answer.
    """
    if subject is None and not delivery.is_test:
        raise NotFound(f"{delivery.subject} is gone")
    source = _builder(delivery)(delivery, subject, objects)
    body = signing.body(_envelope(delivery), source.data, delivery.payload, settings.webhook_full_bytes)
    return WebhookMessage(body, source.trace, source.superseded)


def _envelope(delivery: Delivery) -> dict[str, Any]:
    """Return what surrounds the `data`: Standard Webhooks' own fields, and OpenAI's where the event is one of its."""
    envelope: dict[str, Any] = {"type": delivery.type, "timestamp": views.moment(delivery.created) or ""}
    if is_openai(delivery.type):
        envelope |= {"id": delivery.event_id, "object": "event", "created_at": int(delivery.created)}
    if delivery.sequence:
        envelope["sequence"] = delivery.sequence
    if delivery.is_test and delivery.endpoint:
        envelope["test"] = True
    return envelope


@dataclass(frozen=True)
class _Source:
    data: Mapping[str, Any]
    trace: str = ""
    superseded: bool = False


def _job(delivery: Delivery, job: Job, objects: ObjectStorage) -> _Source:
    if delivery.type == "job.started":
        return _Source(views.job_body(_quiet(_as_started(job))).model_dump(), job.trace, job.state.terminal)
    return _Source(_job_body(delivery, job, objects).model_dump(), job.trace)


def _response(delivery: Delivery, job: Job, objects: ObjectStorage) -> _Source:
    if delivery.payload == "full":
        return _Source(response_body(job, _job_body(delivery, job, objects)).model_dump(), job.trace)
    return _Source(thin_response(job, delivery.type).model_dump(exclude_none=True), job.trace)


def _job_body(delivery: Delivery, job: Job, objects: ObjectStorage) -> views.JobBody:
    output = job.output
    if job.state is State.SUCCEEDED and not output and job.result and delivery.payload == "full":
        output = StoredResult.from_bytes(objects.get(job.result)).output
    return views.job_body(_quiet(job), output)


def _quiet(job: Job) -> Job:
    """Return `job` without the progress of its own deliveries, which must not change the body."""
    return replace(job, hook_state="pending", hook_attempts=0)


def _as_started(job: Job) -> Job:
    """Return `job` as it was when its first attempt began, whatever has become of it since."""
    return replace(
        job,
        state=State.RUNNING,
        attempt=1,
        released=0,
        ended=0,
        expires=0,
        stage="",
        tiles=0,
        prompt_tokens=0,
        completion_tokens=0,
        output=None,
        error=None,
        usage=None,
        timings=None,
    )


def _batch(delivery: Delivery, found: tuple[Batch, list[str]], objects: ObjectStorage) -> _Source:
    del objects
    if is_openai(delivery.type):
        return _Source(batch_data(found[0], delivery.type).model_dump())
    return _Source(views.batch_body(replace(found[0], hook_state="pending", hook_attempts=0)).model_dump())


def _test(delivery: Delivery, subject: None, objects: ObjectStorage) -> _Source:
    del subject, objects
    kind, _, event = delivery.type.partition(".")
    id = delivery.msg.partition("_")[2]
    if kind == "webhook":
        return _Source({"id": delivery.msg, "object": "test"})
    if is_openai(delivery.type):
        prefix = {"response": "resp"}.get(kind, kind)
        return _Source({"id": f"{prefix}_{id}", "object": kind, "status": event, "metadata": {}})
    state = {"started": "running"}.get(event, event)
    return _Source({"id": f"{kind}_{id}", "object": kind, "state": state, "metadata": {}, "expires_at": None})


_BUILDERS: Mapping[str, Callable[..., _Source]] = {"job": _job, "batch": _batch, "response": _response}


def _builder(delivery: Delivery) -> Callable[..., _Source]:
    return _test if delivery.is_test else _BUILDERS[delivery.type.partition(".")[0]]
