"""`Submissions`: accepts jobs and batches. Knows nothing of HTTP, so that any surface can call it."""

import json
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from itertools import repeat

from services.intake.metrics import ACCEPTED
from services.intake.principal import Principal
from services.intake.queries import JobQueries
from services.intake.submission.commit import Commit
from services.intake.submission.idempotency import KeyReservation, reserve_key
from services.intake.submission.image_headers import ImageInfo
from services.intake.submission.json_body import off_loop
from services.intake.submission.model import BatchSubmission, RejectedItem, RequestHeaders, Submission, custom_id_of
from services.intake.submission.prepare import Preparation, PreparedJob
from services.intake.submission.priority import capped, capped_job
from shared.batches import Batch
from shared.errors import BodyTooLarge, InvalidField, JobNotEnded, RequestError
from shared.ids import new_id
from shared.jobs import Job
from shared.keys import Scope
from shared.settings.roles import IntakeSettings
from shared.store.client import AsyncStore

MAX_COPIES = 16  #: times `max_body_bytes` that a batch's images may come to, each counted for every job that names it
MAX_LISTED_JOBS = 1000  #: bad jobs of a batch that are listed


@dataclass(frozen=True)
class AcceptedJob:
    """A job that was accepted, or, `replayed`, the one that an earlier request with the same key became."""

    job: Job
    replayed: bool = False


@dataclass(frozen=True)
class AcceptedBatch:
    """A batch that was accepted, or, `replayed`, the one that an earlier request with the same key became."""

    batch: Batch
    replayed: bool = False


class Submissions:
    """Prepares and commits what callers ask for. Every method raises `RequestError`; what it returns is durable."""

    def __init__(
        self, store: AsyncStore, queries: JobQueries, preparation: Preparation, commit: Commit, settings: IntakeSettings
    ) -> None:
        self._store = store
        self._queries = queries
        self._preparation = preparation
        self._commit = commit
        self._settings = settings

    async def submit(self, principal: Principal, submission: Submission, headers: RequestHeaders) -> AcceptedJob:
        """Accept one job."""
        require_reading_of_parent(principal, submission)
        fingerprint = submission.fingerprint() if headers.idempotency_key else ""
        async with self._reserved(principal, headers, fingerprint) as reservation:
            if reservation.replay:
                return await self._replay(principal, reservation)
            asked = capped(principal, submission)
            prepared = await self._preparation.prepare(principal.tenant, asked, {}, trace=headers.traceparent)
            return await self._accept(principal, prepared, reservation)

    async def retry(self, principal: Principal, id: str, headers: RequestHeaders) -> AcceptedJob:
        """Accept a new job that asks what the ended job `id` was asked."""
        principal.require(Scope.READ)  # an answer tells of what the old job asked
        old = await self._queries.get(principal.tenant, id)
        if not old.state.terminal:
            raise JobNotEnded
        async with self._reserved(principal, headers, f"retry {old.id}") as reservation:
            if reservation.replay:
                return await self._replay(principal, reservation)
            prepared = await self._preparation.clone(capped_job(principal, old), trace=headers.traceparent)
            return await self._accept(principal, prepared, reservation)

    async def submit_batch(
        self, principal: Principal, submission: BatchSubmission, headers: RequestHeaders
    ) -> AcceptedBatch:
        """Accept every job of a batch, or none: one bad job refuses it, and every bad one is listed in `errors`."""
        fingerprint = await off_loop(submission.size, submission.fingerprint)
        async with self._reserved(principal, headers, fingerprint) as reservation:
            id = reservation.replay or new_id("batch")
            if not reservation.replay:
                prepared = await self._prepare_all(principal, submission, id, headers.traceparent)
                record = await self._batch_record(id, principal.tenant, submission, reservation)
                await self._commit.commit(principal, prepared, reservation, resource_id=id, batch=record)
                ACCEPTED.inc(len(prepared))
        return AcceptedBatch(await self._queries.get_batch(principal.tenant, id), bool(reservation.replay))

    def _reserved(
        self, principal: Principal, headers: RequestHeaders, fingerprint: str
    ) -> AbstractAsyncContextManager[KeyReservation]:
        return reserve_key(self._store, principal.tenant, headers.idempotency_key, fingerprint)

    async def _replay(self, principal: Principal, reservation: KeyReservation) -> AcceptedJob:
        return AcceptedJob(await self._queries.get(principal.tenant, reservation.replay), replayed=True)

    async def _accept(self, principal: Principal, prepared: PreparedJob, reservation: KeyReservation) -> AcceptedJob:
        submitted = await self._commit.commit(principal, [prepared], reservation, resource_id=prepared.job.id)
        ACCEPTED.inc()
        return AcceptedJob(prepared.as_accepted(submitted))

    async def _prepare_all(
        self, principal: Principal, submission: BatchSubmission, batch: str, trace: str
    ) -> Sequence[PreparedJob]:
        prepared: list[PreparedJob] = []
        rejected: list[RejectedItem] = []
        inspected: dict[str, ImageInfo] = {}
        for index, items in enumerate(repeat(submission.items(), len(submission.request.jobs))):
            item = await off_loop(submission.size, partial(next, items))
            if isinstance(item, RejectedItem):
                rejected.append(item)
                continue
            require_reading_of_parent(principal, item)
            try:
                asked = capped(principal, item)
                prepared.append(
                    await self._preparation.prepare(principal.tenant, asked, inspected, trace=trace, batch=batch)
                )
            except RequestError as error:
                if error.status >= 500:
                    raise
                rejected.append(RejectedItem(index, custom_id_of(submission.request.jobs[index]), error))
        if rejected:
            raise _refused(rejected, len(submission.request.jobs))
        _check_copies(prepared, self._settings)
        return prepared

    async def _batch_record(
        self, id: str, tenant: str, submission: BatchSubmission, reservation: KeyReservation
    ) -> dict[str, str]:
        """Return the batch's record, which is also stored so that losing Redis does not lose it."""
        asked = submission.request
        record = {"id": id, "tenant": tenant, "total": str(len(asked.jobs)), "created": f"{time.time():.6f}"}
        if asked.metadata:
            record["metadata"] = json.dumps(asked.metadata, ensure_ascii=False)
        if webhook := await self._preparation.webhook(tenant, asked.webhook, ["batch.ended"]):
            record["webhook"] = webhook.model_dump_json()
        if reservation.key:
            record["idem"] = reservation.key
        return record


def require_reading_of_parent(principal: Principal, submission: Submission) -> None:
    """Raise `InsufficientScope` where a caller that may not read asks about an earlier job: the answer tells of it."""
    if submission.question.parent is not None:
        principal.require(Scope.READ)


def _refused(rejected: Sequence[RejectedItem], total: int) -> InvalidField:
    errors = [
        {
            "index": item.index,
            "custom_id": item.custom_id,
            "code": item.error.code,
            "detail": item.error.detail,
            "field": item.error.field,
            "image": item.error.image,
        }
        for item in rejected[:MAX_LISTED_JOBS]
    ]
    detail = f"{len(rejected)} of {total} jobs are refused, so none was accepted; `errors` lists them"
    return InvalidField(detail, field="jobs", errors=errors)


def _check_copies(prepared: Sequence[PreparedJob], settings: IntakeSettings) -> None:
    stored = sum(image.bytes for one in prepared for image in one.request.images)
    limit = MAX_COPIES * settings.max_body_bytes
    if stored > limit:
        detail = f"the images of the batch, each counted for every job that names it, are {stored} bytes"
        raise BodyTooLarge(f"{detail}; at most {limit} are allowed: send it in several batches")
