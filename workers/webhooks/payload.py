"""Builds webhook messages: the same bytes at every attempt, from a record that no longer changes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared import views
from shared.batches import Batch
from shared.deliveries import Delivery
from shared.errors import NotFound
from shared.jobs import Job, State
from shared.results import StoredResult
from shared.settings import WebhookSettings
from shared.storage import ObjectStorage
from shared.store import batches, transitions
from shared.store.command import StoreCommand
from shared.webhooks import signing


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
    kind = delivery.type.partition(".")[0]
    if subject is None and kind != "webhook":
        raise NotFound(f"{delivery.subject} is gone")
    source = _BUILDERS[kind](delivery, subject, objects)
    body = signing.body(
        delivery.type,
        views.moment(delivery.created) or "",
        source.data,
        delivery.payload,
        settings.webhook_full_bytes,
        sequence=delivery.sequence,
    )
    return WebhookMessage(body, source.trace, source.superseded)


@dataclass(frozen=True)
class _Source:
    data: Mapping[str, Any]
    trace: str = ""
    superseded: bool = False


def _job(delivery: Delivery, job: Job, objects: ObjectStorage) -> _Source:
    # The delivery's own progress must not change the body.
    job = replace(job, hook_state="pending", hook_attempts=0)
    if delivery.type == "job.started":
        return _Source(views.job_body(_as_started(job)).model_dump(), job.trace, job.state.terminal)
    output = None
    if job.state is State.SUCCEEDED and not job.output and job.result and delivery.payload == "full":
        output = StoredResult.from_bytes(objects.get(job.result)).output
    return _Source(views.job_body(job, output).model_dump(), job.trace)


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
    del delivery, objects
    return _Source(views.batch_body(replace(found[0], hook_state="pending", hook_attempts=0)).model_dump())


def _test(delivery: Delivery, subject: None, objects: ObjectStorage) -> _Source:
    del subject, objects
    return _Source({"id": delivery.msg, "object": "test"})


_BUILDERS: Mapping[str, Callable[..., _Source]] = {"job": _job, "batch": _batch, "webhook": _test}
