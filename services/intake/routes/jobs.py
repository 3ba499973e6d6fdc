"""`/v1/jobs`: submit, read, wait, cancel, retry, delete."""

import time
from collections.abc import Mapping
from typing import Annotated

from fastapi import Header, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from services.intake.context import AppContext, Canceller, Context, Reader, Submitter
from services.intake.lifecycle import cancel_job, delete_job
from services.intake.metrics import ACCEPT
from services.intake.native import native_router
from services.intake.openapi import (
    FORM_OR_JSON,
    JOB_ACCEPTED,
    PREFERENCES,
    SUBMIT_ERRORS,
    errors,
    returns,
    returns_stream,
)
from services.intake.queries import retry_after
from services.intake.rendering import json_response
from services.intake.routes.sse import EVENT_SCHEMA, encoded, parse_event_id
from services.intake.schemas.responses import CancelBody, JobPage, ResultBody
from services.intake.submission.body import refuse_body
from services.intake.submission.headers import read_headers
from services.intake.submission.model import RequestHeaders
from services.intake.submission.parse import parse_submission
from services.intake.submission.service import AcceptedJob
from shared.errors import (
    IdempotencyInProgress,
    IdempotencyMismatch,
    InvalidField,
    JobFailed,
    JobNotEnded,
    Malformed,
    NotFound,
    Overloaded,
    QuotaExceeded,
    ResultLost,
    StorageUnavailable,
)
from shared.ids import is_id
from shared.jobs import Job, State
from shared.records import JobError
from shared.views import JobBody, StateName, job_body

router = native_router("jobs")

Id = Annotated[str, Path(description="`job_…`")]
Wait = Annotated[
    float | None,
    Query(ge=0, le=60, allow_inf_nan=False, description="seconds to wait for the end of the job before answering"),
]
Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("/v1/jobs", status_code=202, responses=JOB_ACCEPTED | errors(*SUBMIT_ERRORS), openapi_extra=FORM_OR_JSON)
async def submit(request: Request, context: Context, caller: Submitter) -> Response:
    """Submit a question. 202 means that the job will end, once, and say how."""
    headers = read_headers(request)
    submission = await parse_submission(request, context.settings)
    accepted = await context.submissions.submit(caller, submission, headers)
    if not accepted.replayed:
        ACCEPT.observe(time.monotonic() - request.state.began)
    return await _respond(context, accepted, headers)


@router.get("/v1/jobs", responses=returns(JobPage) | errors(InvalidField))
async def list_jobs(  # noqa: PLR0917  # FastAPI reads the query from it
    request: Request,
    context: Context,
    caller: Reader,
    state: Annotated[StateName | None, Query()] = None,
    batch: Annotated[str | None, Query(description="`batch_…`")] = None,
    limit: Limit = 20,
    after: Annotated[str | None, Query(description="`next` of the previous page")] = None,
) -> Response:
    """Jobs, newest first, without large outputs. `metadata.KEY=VALUE` keeps those that have it; it may be repeated."""
    metadata = _metadata_filter(request)
    for field, kind, id in (("batch", "batch", batch), ("after", "job", after)):
        if id is not None and not is_id(kind, id):
            raise InvalidField(f"`{field}` is not a {kind} id", field=field)
    found, following = await context.queries.list_jobs(
        caller.tenant, state=state or "", batch=batch or "", after=after or "", limit=limit, metadata=metadata
    )
    return json_response(JobPage(data=[job_body(job) for job in found], next=following or None))


@router.get(
    "/v1/jobs/{id}", responses=returns(JobBody) | errors(NotFound, InvalidField, ResultLost, StorageUnavailable)
)
async def read(context: Context, caller: Reader, id: Id, wait: Wait = None) -> Response:
    """A job as it is; with `wait`, as it is at its end or after that many seconds."""
    queries = context.queries
    job = await (queries.wait_until_ended(caller.tenant, id, wait) if wait else queries.get(caller.tenant, id))
    return json_response(await queries.body(job), headers=retry_after(job))


@router.delete("/v1/jobs/{id}", status_code=204, responses=errors(NotFound, JobNotEnded))
async def delete(context: Context, caller: Canceller, id: Id) -> Response:
    """Delete an ended job: its record, images and output."""
    await delete_job(context, caller.tenant, id)
    return Response(status_code=204)


@router.post("/v1/jobs/{id}/cancel", responses=returns(CancelBody) | errors(NotFound, Malformed))
async def cancel(request: Request, context: Context, caller: Canceller, id: Id) -> Response:
    """Cancel: a queued job ends at once, a running one within about a second, an ended one stays as it is."""
    read_headers(request)  # only checked: cancelling twice is cancelling once, with an Idempotency-Key and without
    await refuse_body(request, context.settings)
    outcome = await cancel_job(context, caller.tenant, id)
    job = await context.queries.get(caller.tenant, id)
    return json_response(CancelBody.model_validate({"outcome": outcome, "job": job_body(job)}))


@router.post(
    "/v1/jobs/{id}/retry",
    status_code=202,
    responses=JOB_ACCEPTED
    | errors(
        NotFound,
        JobNotEnded,
        Malformed,
        IdempotencyMismatch,
        IdempotencyInProgress,
        QuotaExceeded,
        Overloaded,
        ResultLost,
        StorageUnavailable,
    ),
    openapi_extra={"parameters": PREFERENCES},
)
async def retry(request: Request, context: Context, caller: Submitter, id: Id) -> Response:
    """Ask the same again, as a new job with `retry_of`."""
    headers = read_headers(request)
    await refuse_body(request, context.settings)
    return await _respond(context, await context.submissions.retry(caller, id, headers), headers)


@router.get(
    "/v1/jobs/{id}/result",
    responses=returns(ResultBody) | errors(NotFound, JobNotEnded, JobFailed, ResultLost, StorageUnavailable),
)
async def result(context: Context, caller: Reader, id: Id) -> Response:
    """The output alone, once there is one."""
    job = await context.queries.get(caller.tenant, id)
    if not job.state.terminal:
        raise JobNotEnded(retry_after=float(retry_after(job)["Retry-After"]))
    if job.state is not State.SUCCEEDED:
        raise _failed(job)
    output = await context.storage.output(job)
    return json_response(ResultBody(text=output.text, finish_reason=output.finish_reason, usage=job.usage))


@router.get(
    "/v1/jobs/{id}/events",
    response_class=StreamingResponse,
    responses=returns_stream("text/event-stream", "server-sent events", EVENT_SCHEMA)
    | {204: {"description": "`Last-Event-ID` is that of `end`: there is nothing more, and clients stop asking"}}
    | errors(NotFound, InvalidField, Overloaded),
)
async def events(
    context: Context, caller: Reader, id: Id, last_event_id: Annotated[str | None, Header(max_length=100)] = None
) -> Response:
    """The job as it happens: `state`, `delta`, `reset`, `end`. `Last-Event-ID` resumes."""
    job = await context.queries.get(caller.tenant, id)
    position, was_end = parse_event_id(last_event_id or "")
    if was_end and job.state.terminal:
        return Response(status_code=204)
    context.streams.refuse_if_full()
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    stream = encoded(context.streams.stream(job, position))
    return StreamingResponse(stream, headers=headers, media_type="text/event-stream")


async def _respond(context: AppContext, accepted: AcceptedJob, headers: RequestHeaders) -> Response:
    job, wait = accepted.job, headers.wait_s
    if wait and not job.state.terminal:
        job = await context.queries.wait_for_end_of(job, wait)
    ended = job.state.terminal and (accepted.replayed or bool(wait))  # a quick worker makes no 200 of a plain 202
    sent = {"Location": f"{context.settings.root_path}/v1/jobs/{job.id}"}
    if not ended:
        sent |= {"Retry-After": "1"} | retry_after(job)
    if wait is not None:
        sent["Preference-Applied"] = f"wait={wait:g}"
    if accepted.replayed:
        sent["Idempotent-Replayed"] = "true"
    return json_response(await context.queries.body(job), 200 if ended else 202, sent)


def _failed(job: Job) -> JobFailed:
    if job.state is State.CANCELLED:
        return JobFailed("the job was cancelled", errors=[{"code": job.state.value, "message": "it was cancelled"}])
    error = job.error or JobError(code=job.state.value, message="no reason was recorded")
    detail = f"the job has {'expired' if job.state is State.EXPIRED else 'failed'}: {error.message}"
    return JobFailed(detail, image=error.image, errors=[error.model_dump()])


def _metadata_filter(request: Request) -> Mapping[str, str]:
    return {
        name.removeprefix("metadata."): value
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata.")
    }
