"""Ending and deleting a job at a caller's wish, alike on every surface."""

import structlog

from services.intake.clients.ends import archive_end
from services.intake.context import AppContext
from shared.errors import JobNotEnded, NotFound, RequestError
from shared.jobs import Job
from shared.store import transitions

log = structlog.get_logger(__name__)


async def cancel_job(context: AppContext, tenant: str, id: str) -> str:
    """Cancel a job; return `cancelled`, `cancelling` or `already_ended`. Raises `NotFound`."""
    await context.queries.get(tenant, id)
    moved = await context.store.run(transitions.cancel(tenant, id))
    if not moved.value:
        raise NotFound
    context.publisher.deliveries(*moved.messages)
    if moved.value == "cancelled":
        await archive_end(context.store, context.storage, id)
    return moved.value


async def delete_job(context: AppContext, tenant: str, id: str) -> None:
    """Delete the record, images and output of an ended job. Raises `NotFound` or `JobNotEnded`."""
    await context.queries.get(tenant, id)
    outcome = await context.store.run(transitions.delete(tenant, id))
    if outcome == "not_found":
        raise NotFound
    if outcome == "not_ended":
        raise JobNotEnded("the job has not ended; cancel it first")
    await context.deltas.delete(id)
    try:
        await context.storage.delete_job(id)
        await context.store.run(transitions.purge_done([id]))
    except RequestError:  # its id is in the trash, which the reconciler empties
        pass


async def forget_job(context: AppContext, job: Job) -> None:
    """Delete a job that was not to be stored, now that its call is over; one that goes on stays until it expires."""
    try:
        await delete_job(context, job.tenant, job.id)
    except RequestError as error:
        log.warning("job that was not to be stored stays until it expires", job=job.id, code=error.code)
