"""`/v1/batches`: many jobs accepted together or not at all, their states and results together."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from services.intake.context import Canceller, Context, Reader, Submitter
from services.intake.openai.batches import (
    FileBatchBody,
    FileBatchPage,
    file_batch_body,
    page_of_batches,
    read_file_batch,
)
from services.intake.openai.surface import COMMON, OPENAI
from services.intake.openapi import (
    BATCH_ACCEPTED,
    BATCH_FORM_OR_JSON,
    SUBMIT_ERRORS,
    TEXT,
    errors,
    returns,
    returns_either,
    returns_stream,
)
from services.intake.queries import JobQueries
from services.intake.rendering import json_response, to_json
from services.intake.routes.jobs import Id, Limit
from services.intake.schemas.responses import BatchCancelBody, JobPage
from services.intake.submission.body import refuse_body
from services.intake.submission.headers import read_headers
from services.intake.submission.parse import parse_batch
from services.intake.surface import choose_surface, route_class
from shared.batches import Batch
from shared.errors import InvalidField, Malformed, NotFound, StorageUnavailable
from shared.ids import is_id
from shared.store import batches, transitions
from shared.views import BatchBody, batch_body, job_body

router = APIRouter(tags=["batches"], route_class=route_class(COMMON))

PAGE_JOBS = 100  #: jobs read at once
RETRY_AFTER = {"Retry-After": "2"}


@router.post(
    "/v1/batches",
    status_code=202,
    responses=BATCH_ACCEPTED | errors(*SUBMIT_ERRORS),
    openapi_extra=BATCH_FORM_OR_JSON,
)
async def submit(request: Request, context: Context, caller: Submitter) -> Response:
    """Submit many questions: in the body, all accepted or none, or as the lines of a file, which are checked later.

    In the body one bad question refuses the batch, and every bad one is listed in `errors`. A body with `input_file_id`
    is answered with 200 and a batch as OpenAI's SDKs read it.
    """
    headers = read_headers(request)
    submission = await parse_batch(request, context.settings)
    if isinstance(submission, dict):
        choose_surface(request.scope, OPENAI)
        batch = await context.file_batches.submit(caller, read_file_batch(submission), headers)
        return json_response(file_batch_body(batch))
    accepted = await context.submissions.submit_batch(caller, submission, headers)
    batch = accepted.batch
    sent = {"Location": f"{context.settings.root_path}/v1/batches/{batch.id}"} | _retry_after(batch)
    if accepted.replayed:
        sent["Idempotent-Replayed"] = "true"
    return json_response(batch_body(batch), 200 if batch.ended else 202, sent)


@router.get("/v1/batches", responses=returns(FileBatchPage) | errors(InvalidField))
async def list_batches(
    context: Context,
    caller: Reader,
    limit: Limit = 20,
    after: Annotated[str | None, Query(description="`last_id` of the previous page")] = None,
) -> Response:
    """Batches of both kinds, newest first, all in OpenAI's shape."""
    if after is not None and not is_id("batch", after):
        raise InvalidField("`after` is not the id of a batch", field="after")
    page, has_more = await context.queries.list_batches(caller.tenant, after=after or "", limit=limit)
    return json_response(page_of_batches(page, has_more=has_more))


@router.get("/v1/batches/{id}", responses=returns_either(BatchBody, FileBatchBody) | errors(NotFound))
async def read(context: Context, caller: Reader, id: Id) -> Response:
    """Counts per state; `ended` once no job is open. One of a file in OpenAI's shape."""
    batch = await context.queries.get_batch(caller.tenant, id)
    if batch.file:
        return json_response(file_batch_body(batch), headers=_retry_after(batch))
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
    """The ended jobs, one a line, in the order they were given, each with its output; empty while none has ended.

    Lines of a file that became no job are in the batch's error file alone.
    """
    await context.queries.get_batch(caller.tenant, id)
    first = await _lines(context.queries, caller.tenant, id, 0)  # what fails here still gets an error status
    lines = _all_lines(context.queries, caller.tenant, id, first)
    return StreamingResponse(lines, media_type="application/jsonl")


@router.post(
    "/v1/batches/{id}/cancel", responses=returns_either(BatchCancelBody, FileBatchBody) | errors(NotFound, Malformed)
)
async def cancel(request: Request, context: Context, caller: Canceller, id: Id) -> Response:
    """Cancel every job that has not ended. One of a file is `cancelling` until its output is written."""
    read_headers(request)  # only checked: cancelling twice is cancelling once, with an Idempotency-Key and without
    await refuse_body(request, context.settings)
    queries, tenant = context.queries, caller.tenant
    before = await queries.get_batch(tenant, id)
    if before.file:
        await context.store.run(batches.cancel(tenant, id))
        return json_response(file_batch_body(await queries.get_batch(tenant, id)))
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
