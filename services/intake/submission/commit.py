"""Prepared jobs become durable: objects first, then the records in one atomic step, then the hints.

What is refused after something was stored is deleted again, once the job store says for certain that it has no record.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import structlog

from services.intake.clients.background import TaskSet
from services.intake.clients.hints import HintPublisher
from services.intake.clients.readiness import Readiness
from services.intake.clients.storage import Storage
from services.intake.principal import Principal
from services.intake.quotas import quota_exceeded
from services.intake.submission.idempotency import KeyReservation
from services.intake.submission.prepare import PreparedJob
from services.intake.uploads import Upload
from shared.errors import (
    IdempotencyInProgress,
    ObjectMissing,
    Overloaded,
    QueueUnavailable,
    StorageUnavailable,
    StoreRejected,
)
from shared.request_archive import is_archived, member_name
from shared.settings.roles import IntakeSettings
from shared.storage import batch_key, job_prefix
from shared.store import transitions
from shared.store.client import AsyncStore
from shared.store.transitions import SubmitResult

MAX_CONCURRENT_PUTS = 16  #: objects of one request that are stored side by side
FIRST_HINT_DELAY_S = 2.0  #: after which the reconciler publishes a hint that this process did not
SETTLE_DELAY_S = 15.0  #: after which a submission that the store did not answer was carried out, or never will be
CLEAN_UP_FOR_S = 600.0  #: for which the store is asked what became of a submission that it did not answer
UNCERTAIN = (
    "the job store did not answer in time, so it is not certain whether the job was accepted; repeat the request, "
    "with an Idempotency-Key from the first time on"
)
log = structlog.get_logger(__name__)


class Commit:
    """Stores prepared jobs, all or none."""

    def __init__(
        self,
        *,
        store: AsyncStore,
        storage: Storage,
        publisher: HintPublisher,
        readiness: Readiness,
        background: TaskSet,
        settings: IntakeSettings,
    ) -> None:
        self._store = store
        self._storage = storage
        self._publisher = publisher
        self._readiness = readiness
        self._background = background
        self._first_hint_delay_s = min(FIRST_HINT_DELAY_S, settings.redispatch)

    async def commit(
        self,
        principal: Principal,
        prepared: Sequence[PreparedJob],
        reservation: KeyReservation,
        *,
        resource_id: str,
        batch: Mapping[str, str] | None = None,
    ) -> SubmitResult:
        """Accept all jobs, which are durable afterwards, or none and raise `RequestError`.

        `resource_id` is the job or batch that the Idempotency-Key stands for; `batch` is the batch's record.
        """
        uncertain = False  # whether the store may have the records although it did not say so
        try:
            await self._readiness.refuse_unless_ready()
            await self._put_objects(prepared, batch)
            jobs = [replace(one.job, idem=reservation.key if one.job.id == resource_id else "") for one in prepared]
            call = transitions.submit(
                principal.tenant,
                jobs,
                max_queued=principal.limits.max_queued,
                grace=self._first_hint_delay_s,
                idem=reservation.binding(resource_id),
                batch=batch,
                limits=principal.limits.tenant,
            )
            uncertain = True
            submitted = await self._store.run(call)
            uncertain = False
            _refuse_unless_accepted(submitted, len(jobs))
        except BaseException as error:
            uncertain = uncertain and not isinstance(error, StoreRejected)
            ids = [one.job.id for one in prepared]
            self._background.add(self._delete_orphans(ids, batch["id"] if batch else "", uncertain))
            if isinstance(error, QueueUnavailable | StorageUnavailable):
                detail = UNCERTAIN if uncertain else f"{error.detail.rstrip('.')}; nothing was accepted"
                raise type(error)(detail, retry_after=error.retry_after) from error
            raise
        self._publish_hints(prepared, submitted)
        return submitted

    async def commit_lines(
        self, principal: Principal, prepared: Sequence[PreparedJob], lines: transitions.LinesRead
    ) -> SubmitResult:
        """Accept jobs of lines of a batch's file, and move the batch behind `lines`, or do neither.

        Repeating it changes nothing, since the ids of the jobs follow from the lines: so nothing is deleted where it
        fails. Raises `RequestError`; a full queue or a passed limit is only returned.
        """
        await self._readiness.refuse_unless_ready()
        await self._put_objects(prepared, None)
        call = transitions.submit(
            principal.tenant,
            [one.job for one in prepared],
            max_queued=principal.limits.max_queued,
            grace=self._first_hint_delay_s,
            limits=principal.limits.tenant,
            lines=lines,
        )
        submitted = await self._store.run(call)
        if submitted.outcome == "accepted":
            self._publish_hints(prepared, submitted)
        return submitted

    def _publish_hints(self, prepared: Sequence[PreparedJob], submitted: SubmitResult) -> None:
        for one, hinted in zip(prepared, submitted.hinted, strict=True):
            if hinted:
                self._publisher.job(one.job.model, one.job.id)

    async def _put_objects(self, prepared: Sequence[PreparedJob], batch: Mapping[str, str] | None) -> None:
        storage = self._storage
        puts: list[Callable[[], Awaitable[None]]] = []
        if batch is not None:
            record = json.dumps(batch, ensure_ascii=False).encode()
            puts.append(partial(storage.put, batch_key(batch["id"]), record, "application/json"))
        for one in prepared:
            archived: dict[str, str | Upload] = {}
            for n, (source, image) in enumerate(zip(one.sources, one.request.images, strict=True)):
                if source is None:
                    continue
                if is_archived(image.key):
                    archived[member_name(n)] = source
                else:
                    puts.append(partial(storage.put_image, image, source))
            puts.append(partial(storage.put_archive, one.job.id, one.manifest, archived))
        for start in range(0, len(puts), MAX_CONCURRENT_PUTS):
            some = puts[start : start + MAX_CONCURRENT_PUTS]
            for outcome in await asyncio.gather(*(put() for put in some), return_exceptions=True):
                if isinstance(outcome, ObjectMissing):  # it was there when the earlier job's manifest was written
                    raise StorageUnavailable(f"{outcome.detail}, which an earlier job had") from outcome
                if isinstance(outcome, BaseException):
                    raise outcome

    async def _delete_orphans(self, ids: Sequence[str], batch: str, uncertain: bool) -> None:
        """Delete the objects of jobs that were not accepted. An unanswered submission may still be carried out."""
        until = time.monotonic() + CLEAN_UP_FOR_S
        while uncertain and time.monotonic() < until:
            await asyncio.sleep(SETTLE_DELAY_S)
            try:
                if await self._store.run(transitions.read_jobs(ids)):
                    return
                uncertain = False
            except QueueUnavailable:
                continue
        if not uncertain:
            await self._storage.discard([*map(job_prefix, ids), *([batch_key(batch)] if batch else [])])


def _refuse_unless_accepted(submitted: SubmitResult, jobs: int) -> None:
    if submitted.outcome == "overloaded":
        raise Overloaded(retry_after=submitted.retry_after)
    if submitted.limit is not None:
        raise quota_exceeded(submitted.limit, jobs)
    if submitted.outcome == "in_progress":
        raise IdempotencyInProgress(retry_after=1)
