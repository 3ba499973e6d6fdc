"""The way in: check everything, store pictures and manifests, then the records in one atomic step, then answer.

    look ── compose ──> Order ── store objects ── submit records ──> 202 ── hint, in the background

What is refused after something was stored is removed again, once the job store says for certain that it has no record.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import structlog

from services.intake.clients.storage import Storage
from services.intake.context import House
from services.intake.desk import said_no
from services.intake.schemas.requests import BatchWebhook, Webhook
from services.intake.submission.body import Upload
from services.intake.submission.idempotency import Held
from services.intake.submission.image_headers import Header, look
from services.intake.submission.parse import Draft
from services.intake.submission.prepare import Looked, Past, compose
from shared import transitions
from shared.conversation import Message
from shared.errors import (
    IdempotencyInProgress,
    ObjectMissing,
    Overloaded,
    QueueUnavailable,
    ResultLost,
    StorageUnavailable,
    UnknownParent,
)
from shared.ids import is_id, new_id
from shared.images import ImageLimits
from shared.jobs import PRIORITIES, Job, State
from shared.objects import batch_key, job_prefix, manifest_key
from shared.requests import Manifest, Request
from shared.settings import Settings
from shared.transitions import Submitted
from shared.webhooks import DEFAULT_EVENTS

INLINE = 8 << 10  #: bytes of a request of which the record keeps a copy
HEADER_HERE = 256 << 10  #: bytes of a picture whose header is read on the event loop
AT_ONCE = 16  #: objects stored side by side for one request
GRACE = 2.0  #: seconds that the keeper leaves the first hint to the thread here
LATE = 15.0  #: seconds after which a submission that was not answered has been carried out, or never will be
TIDY_FOR = 600.0  #: seconds for which the store is asked what became of a submission that it did not answer
UNSURE = (
    "the job store did not answer in time, so that it is not certain whether the job was taken in; repeat the request, "
    "best with an Idempotency-Key from the beginning"
)
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Order:
    """A job ready to be taken in."""

    job: Job
    request: Request
    uploads: Sequence[Upload] = ()  #: the last pictures of the request; those before are copied
    copies: Sequence[str] = ()  #: keys that the first pictures are copied from

    @property
    def manifest(self) -> bytes:
        """What is stored beside the pictures."""
        record = replace(self.job, request="").record()
        return Manifest(record=record, request=self.request).model_dump_json().encode()


async def order(house: House, tenant: str, draft: Draft, seen: dict[str, Header], **more: Any) -> Order:
    """Judge one draft; `seen` are headers of pictures by their hash, `more` further fields of its record."""
    id, asked = new_id("job"), draft.asked
    model = await house.catalogue.model(asked.model)
    looked = [await _look(house.settings, upload, n, seen) for n, upload in enumerate(draft.uploads)]
    past = await _past(house, tenant, asked.parent) if asked.parent is not None else Past()
    request = compose(id, asked, looked, past, model=model, settings=house.settings)
    await house.tokens.refuse_too_long(request, model)
    webhook = await webhook_of(house, asked.webhook, DEFAULT_EVENTS) if asked.webhook else None
    settings = house.settings
    job = Job(
        id=id,
        tenant=tenant,
        model=model.id,
        priority=PRIORITIES.index(asked.priority),
        max_attempts=settings.max_attempts,
        retain=settings.retain_for,
        start_within=asked.start_within or settings.start_within,
        run_within=asked.run_within or settings.run_within,
        images=[image.view() for image in request.images],
        webhook=webhook,
        metadata=asked.metadata,
        parent=asked.parent or "",
        request=inline(request),
        **more,
    )
    return Order(job, request, draft.uploads, [image.key for image in past.images])


def inline(request: Request) -> str:
    """Return the copy of `request` that its record keeps, "" for a large one."""
    text = request.model_dump_json()
    return text if len(text.encode()) <= INLINE else ""


async def accept(
    house: House,
    tenant: str,
    orders: Sequence[Order],
    held: Held,
    *,
    subject: str,
    batch: Mapping[str, str] | None = None,
) -> Submitted:
    """Take all `orders` in, or none and raise. Afterwards they are durable."""
    house.readiness.refuse_if_volatile()
    ids = [one.job.id for one in orders]
    asked = False  # whether the store may have the records although it did not say so
    try:
        await _store(house.storage, orders, batch)
        jobs = [replace(one.job, idem=held.key if one.job.id == subject else "") for one in orders]
        call = transitions.submit(
            tenant,
            jobs,
            max_queued=house.settings.max_queued,
            grace=min(GRACE, house.settings.redispatch),
            idem=held.claim(subject),
            batch=batch,
        )
        asked = True
        submitted = await house.desk.run(call)
        asked = False
        if submitted.outcome == "overloaded":
            raise Overloaded(retry_after=5)
        if submitted.outcome == "in_progress":
            raise IdempotencyInProgress(retry_after=1)
    except BaseException as error:
        unsure = asked and not said_no(error)
        house.chores.add(_tidy(house, ids, batch["id"] if batch else "", unsure))
        if unsure and isinstance(error, QueueUnavailable):
            raise QueueUnavailable(UNSURE, retry_after=2) from error
        if isinstance(error, QueueUnavailable | StorageUnavailable):
            raise type(error)(f"{error.detail} Nothing was accepted.", retry_after=error.retry_after) from error
        raise
    for one in orders:
        house.post.job(one.job.model, one.job.id)
    return submitted


async def webhook_of(house: House, asked: Webhook | BatchWebhook, events: Sequence[str]) -> dict[str, Any]:
    """Return the `webhook` of a record, or raise `WebhookRefused`."""
    host = await house.callbacks.host(asked.url)
    return {"url": asked.url, "host": host, "events": list(asked.events or events), "payload": asked.payload}


async def _look(settings: Settings, upload: Upload, n: int, seen: dict[str, Header]) -> Looked:
    header = seen.get(upload.sha256)
    if header is None:
        limits = ImageLimits.of(settings)
        if upload.size <= HEADER_HERE:
            header = look(upload.file, upload.size, limits, n)
        else:
            header = await asyncio.to_thread(look, upload.file, upload.size, limits, n)
        seen[upload.sha256] = header
    return Looked(upload, header)


async def _past(house: House, tenant: str, parent: str) -> Past:
    if not is_id("job", parent):
        raise UnknownParent(field="parent")
    job = await house.desk.run(transitions.read_job(tenant, parent))
    if job is None or job.state is not State.SUCCEEDED:
        raise UnknownParent(field="parent")
    try:
        output = await house.storage.output(job)
        request = await stored_request(house, parent)
    except (ObjectMissing, ResultLost) as error:
        raise UnknownParent(field="parent") from error
    answer = Message(role="assistant", content=str(output.get("text", "")))
    return Past((*request.messages, answer), request.images, request.groups)


async def stored_request(house: House, id: str) -> Request:
    """Return the question of a job as its manifest has it."""
    return Manifest.model_validate_json(await house.storage.get(manifest_key(id))).request


async def _store(storage: Storage, orders: Sequence[Order], batch: Mapping[str, str] | None) -> None:
    """Put down everything that the jobs need, side by side."""
    puts: list[Callable[[], Awaitable[None]]] = []
    if batch is not None:
        record = json.dumps(batch, ensure_ascii=False).encode()
        puts.append(partial(storage.put, batch_key(batch["id"]), record, "application/json"))
    for one in orders:
        images, copied = one.request.images, len(one.copies)
        for source, image in zip(one.copies, images[:copied], strict=True):
            puts.append(partial(storage.copy, source, image.key, image.bytes))
        for upload, image in zip(one.uploads, images[copied:], strict=True):
            puts.append(partial(storage.put_upload, image.key, upload, image.media_type))
        puts.append(partial(storage.put, manifest_key(one.job.id), one.manifest, "application/json"))
    for some in range(0, len(puts), AT_ONCE):
        outcomes = await asyncio.gather(*(put() for put in puts[some : some + AT_ONCE]), return_exceptions=True)
        for failed in outcomes:
            if isinstance(failed, BaseException):
                raise _gone(failed)


def _gone(error: BaseException) -> BaseException:
    """What is missing of an earlier job was there when its manifest was written."""
    if isinstance(error, ObjectMissing):
        return StorageUnavailable(f"{error.detail}, which an earlier job had")
    return error


async def _tidy(house: House, ids: Sequence[str], batch: str, unsure: bool) -> None:
    """Remove the objects of jobs that were not taken in. An unanswered submission may still be carried out late."""
    until = time.monotonic() + TIDY_FOR
    while unsure and time.monotonic() < until:
        await asyncio.sleep(LATE)
        try:
            if await house.desk.run(transitions.read_jobs(ids)):
                return
            unsure = False
        except QueueUnavailable:
            continue
    if not unsure:
        await house.storage.discard([*map(job_prefix, ids), *([batch_key(batch)] if batch else [])])
