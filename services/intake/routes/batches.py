"""`/v1/batches`: many jobs accepted together or not at all, their states and results together."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response, StreamingResponse

from services.intake.context import Canceller, Context, Reader, Submitter
from services.intake.native import native_router
from services.intake.openapi import (
    BATCH_ACCEPTED,
    BATCH_FORM_OR_JSON,
    SUBMIT_ERRORS,
    TEXT,
    errors,
    returns,
    returns_stream,
)
from services.intake.queries import JobQueries
from services.intake.rendering import json_response, to_json
from services.intake.routes.jobs import Id, Limit
from services.intake.schemas.responses import BatchCancelBody, JobPage
from services.intake.submission.body import refuse_body
from services.intake.submission.headers import read_headers
from services.intake.submission.parse import parse_batch
from shared.batches import Batch
from shared.errors import InvalidField, Malformed, NotFound, StorageUnavailable
from shared.store import transitions
from shared.views import BatchBody, batch_body, job_body

router = native_router("batches")

PAGE_JOBS = 100  #: jobs read at once
RETRY_AFTER = {"Retry-After": "2"}


@router.post(
    "/v1/batches",
    status_code=202,
    responses=BATCH_ACCEPTED | errors(*SUBMIT_ERRORS),
    openapi_extra=BATCH_FORM_OR_JSON,
)
async def submit(request: Request, context: Context, caller: Submitter) -> Response:
    """Submit many questions, all or none: one bad one refuses the batch, and every bad one is listed in `errors`."""
    headers = read_headers(request)
    submission = await parse_batch(request, context.settings)
    accepted = await context.submissions.submit_batch(caller, submission, headers)
    batch = accepted.batch
    sent = {"Location": f"{context.settings.root_path}/v1/batches/{batch.id}"} | _retry_after(batch)
    if accepted.replayed:
        sent["Idempotent-Replayed"] = "true"
    return json_response(batch_body(batch), 200 if batch.ended else 202, sent)


@router.get("/v1/batches/{id}", responses=returns(BatchBody) | errors(NotFound))
async def read(context: Context, caller: Reader, id: Id) -> Response:
    """Counts per state; `ended` once no job is open."""
    batch = await context.queries.get_batch(caller.tenant, id)
    return json_response(batch_body(batch), headers=_retry_after(batch))


@router.get("/v1/batches/{id}/jobs", responses=returns(JobPage) | errors(NotFound, InvalidField))
async def list_jobs(
    context: Context,
    caller: Reader,
    id: Id,
    limit: Limit = 20,
    after: Annotated[int, Query(ge=0, le=1 << 31, description="`next` of the previous page")] = 0,
) -> Response:
    """The jobs in the order they were given, without large outputs."""
    await context.queries.get_batch(caller.tenant, id)
    ids = await context.queries.batch_job_ids(caller.tenant, id, after, after + limit)
    found = await context.queries.batch_jobs(ids[:limit])
    following = str(after + limit) if len(ids) > limit else None
    return json_response(JobPage(data=[job_body(job) for job in found], next=following))


@router.get(
    "/v1/batches/{id}/results",
    response_class=StreamingResponse,
    responses=returns_stream("application/jsonl", "JSON Lines of ended jobs", TEXT)
    | errors(NotFound, StorageUnavailable),
)
async def results(context: Context, caller: Reader, id: Id) -> Response:
    """The ended jobs, one a line, in the order they were given, each with its output."""
    await context.queries.get_batch(caller.tenant, id)
    first = await _lines(context.queries, caller.tenant, id, 0)  # what fails here still gets an error status
    lines = _all_lines(context.queries, caller.tenant, id, first)
    return StreamingResponse(lines, media_type="application/jsonl")


@router.post("/v1/batches/{id}/cancel", responses=returns(BatchCancelBody) | errors(NotFound, Malformed))
async def cancel(request: Request, context: Context, caller: Canceller, id: Id) -> Response:
    """Cancel every job that has not ended."""
    read_headers(request)  # only checked: cancelling twice is cancelling once, with an Idempotency-Key and without
    await refuse_body(request, context.settings)
    queries, tenant = context.queries, caller.tenant
    before = await queries.get_batch(tenant, id)
    outcomes: set[str] = set()
    for start in range(0, before.total if not before.ended else 0, PAGE_JOBS):
        ids = await queries.batch_job_ids(tenant, id, start, start + PAGE_JOBS - 1)
        moves = await asyncio.gather(*(context.store.run(transitions.cancel(tenant, job)) for job in ids))
        outcomes |= {move.value for move in moves}
        context.publisher.deliveries(*(message for move in moves for message in move.messages))
    outcome = next((word for word in ("cancelling", "cancelled") if word in outcomes), "already_ended")
    batch = batch_body(await queries.get_batch(tenant, id))
    return json_response(BatchCancelBody.model_validate({"outcome": outcome, "batch": batch}))


def _retry_after(batch: Batch) -> dict[str, str]:
    return {} if batch.ended else RETRY_AFTER


async def _lines(queries: JobQueries, tenant: str, id: str, start: int) -> bytes | None:
    """Return the lines of a page of jobs from `start` on; None behind the last."""
    ids = await queries.batch_job_ids(tenant, id, start, start + PAGE_JOBS - 1)
    if not ids:
        return None
    ended = [job for job in await queries.batch_jobs(ids) if job.state.terminal]
    return b"".join(to_json(body) + b"\n" for body in await queries.bodies(ended))


async def _all_lines(queries: JobQueries, tenant: str, id: str, lines: bytes | None) -> AsyncIterator[bytes]:
    start = 0
    while lines is not None:
        yield lines
        start += PAGE_JOBS
        lines = await _lines(queries, tenant, id, start)
