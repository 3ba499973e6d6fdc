"""Reading jobs and batches of one tenant, waiting for their end, and what the API shows of them."""

import asyncio
import time
from collections.abc import Mapping, Sequence

from services.intake.clients.changes import Changes, Subscription
from services.intake.clients.storage import Storage
from shared.batches import Batch
from shared.errors import NotFound, ResultLost
from shared.ids import is_id
from shared.jobs import Job, State
from shared.store import batches, transitions
from shared.store.client import AsyncStore
from shared.views import JobBody, job_body

MAX_RETRY_AFTER_S = 30


def retry_after(job: Job) -> dict[str, str]:
    """Return the header that says when to ask again; none for an ended job."""
    if job.state.terminal:
        return {}
    return {"Retry-After": str(min(MAX_RETRY_AFTER_S, 1 + max(0, job.position) // 4))}


class JobQueries:
    """Every method that names a job or batch raises `NotFound`, alike for one of another tenant and for none at all."""

    def __init__(self, store: AsyncStore, storage: Storage, changes: Changes) -> None:
        self._store = store
        self._storage = storage
        self._changes = changes

    async def get(self, tenant: str, id: str) -> Job:
        """Return a job."""
        job = await self._store.run(transitions.read_job(tenant, id)) if is_id("job", id) else None
        if job is None:
            raise NotFound
        return job

    async def wait_until_ended(self, tenant: str, id: str, seconds: float) -> Job:
        """Return a job at its end, or as it is after `seconds` or when the service shuts down."""
        with self._changes.watch(id, ends_only=True) as subscription:
            return await self._wait(await self.get(tenant, id), seconds, subscription)

    async def wait_for_end_of(self, job: Job, seconds: float) -> Job:
        """Return `job`, which was just accepted or read, as `wait_until_ended` does; it is read again once it ended."""
        with self._changes.watch(job.id, ends_only=True) as subscription:
            return await self._wait(job, seconds, subscription)

    async def _wait(self, job: Job, seconds: float, subscription: Subscription) -> Job:
        until = time.monotonic() + seconds
        while not (job.state.terminal or subscription.closed) and (left := until - time.monotonic()) > 0:
            await subscription.changed(left)
            job = await self.get(job.tenant, job.id)
        return job

    async def list_jobs(
        self, tenant: str, *, state: str, batch: str, after: str, limit: int, metadata: Mapping[str, str]
    ) -> tuple[list[Job], str]:
        """Return a page of jobs, newest first, and the id to continue after ("" at the end)."""
        call = transitions.list_jobs(tenant, state=state, batch=batch, after=after, limit=limit, metadata=metadata)
        return await self._store.run(call)

    async def body(self, job: Job) -> JobBody:
        """Return the whole body of `job`, a large output included. Raises `ResultLost` or `StorageUnavailable`."""
        return job_body(job, await self._storage.output(job) if job.state is State.SUCCEEDED else None)

    async def bodies(self, jobs: Sequence[Job]) -> list[JobBody]:
        """Return whole bodies, outputs read side by side; one whose result object is gone says so in its `error`."""
        return list(await asyncio.gather(*(self._body_or_lost(job) for job in jobs)))

    async def get_batch(self, tenant: str, id: str) -> Batch:
        """Return a batch."""
        found = await self._store.run(batches.get(tenant, id, 0, 0)) if is_id("batch", id) else None
        if found is None:
            raise NotFound
        return found[0]

    async def list_batches(self, tenant: str, *, after: str, limit: int) -> tuple[list[Batch], bool]:
        """Return a page of batches, newest first, and whether more follow."""
        return await self._store.run(batches.list_batches(tenant, after=after, limit=limit))

    async def batch_job_ids(self, tenant: str, id: str, first: int, last: int) -> list[str]:
        """Return the ids of the jobs `first` to `last` of a batch, in its order."""
        found = await self._store.run(batches.get(tenant, id, first, last))
        return found[1] if found else []

    async def batch_jobs(self, ids: Sequence[str]) -> list[Job]:
        """Return the jobs of `ids` in order; those that are gone are left out."""
        return await self._store.run(transitions.read_jobs(ids)) if ids else []

    async def _body_or_lost(self, job: Job) -> JobBody:
        try:
            return await self.body(job)
        except ResultLost:
            return job_body(job, result_lost=True)
