"""`/v1/responses`: create, read, stream, cancel, delete, and what was asked."""

from typing import Annotated, Literal

from fastapi import Path, Query, Request
from fastapi.responses import Response

from services.intake.context import AppContext, Canceller, Context, Reader, Submitter
from services.intake.lifecycle import cancel_job, delete_job, forget_job
from services.intake.openai.acceptance import accept
from services.intake.openai.document import answers, asks, openai_errors
from services.intake.openai.parse import RESPONSE_NAMES, SubmissionBuilder, read_response
from services.intake.openai.response_stream import encoded
from services.intake.openai.streaming import stream_answer
from services.intake.openai.surface import openai_router
from services.intake.openai.views import DeletedResponse, InputItemList, input_items, page_of
from services.intake.openapi import SUBMIT_ERRORS
from services.intake.queries import retry_after
from services.intake.rendering import json_response
from services.intake.submission.body import refuse_body
from services.intake.submission.headers import read_headers
from shared.errors import (
    InvalidField,
    JobNotEnded,
    Malformed,
    NotFound,
    ObjectMissing,
    Overloaded,
    ResultLost,
    StorageUnavailable,
    UnsupportedParameter,
)
from shared.jobs import Job
from shared.openai.ids import job_id, response_id
from shared.openai.responses import ResponseBody, response_body

router = openai_router("responses")
CANCEL_WAIT_S = 2.0  #: that a cancelled response, if a worker runs it, is waited for

Id = Annotated[str, Path(description="`resp_…`")]


@router.post(
    "/v1/responses",
    responses=answers(ResponseBody, streams=True) | openai_errors(*SUBMIT_ERRORS, UnsupportedParameter),
    openapi_extra=asks("ResponseJson"),
)
async def create(request: Request, context: Context, caller: Submitter) -> Response:
    """Ask. Without `background` the answer comes in this call, or the response as it is after `RESPONSE_WAIT`."""
    build = SubmissionBuilder(context.models).of_response
    asked, job = await accept(request, context, caller, read_response, build, names=RESPONSE_NAMES)
    if asked.stream:
        return _stream(context, job, -1, store=asked.store)
    if not asked.background and not job.state.terminal:
        job = await context.queries.wait_for_end_of(job, context.settings.response_wait)
    answer = await _respond(context, job)
    if not asked.store and job.state.terminal:
        await forget_job(context, job)
    return answer


@router.get(
    "/v1/responses/{id}",
    responses=answers(ResponseBody, streams=True)
    | openai_errors(NotFound, InvalidField, Overloaded, ResultLost, StorageUnavailable),
)
async def read(  # noqa: PLR0917  # FastAPI reads the query from it
    context: Context,
    caller: Reader,
    id: Id,
    stream: Annotated[bool, Query()] = False,
    starting_after: Annotated[
        int | None, Query(ge=0, lt=2**53, description="`sequence_number` behind which the stream goes on")
    ] = None,
    include_obfuscation: Annotated[bool | None, Query(description="accepted, and ignored")] = None,
) -> Response:
    """A response as it is, or as a stream from behind `starting_after` on."""
    del include_obfuscation
    if starting_after is not None and not stream:
        raise InvalidField("`starting_after` is for `stream`=true", field="starting_after")
    job = await context.queries.get(caller.tenant, job_id(id))
    if stream:
        return _stream(context, job, -1 if starting_after is None else starting_after)
    return await _respond(context, job)


@router.delete("/v1/responses/{id}", responses=answers(DeletedResponse) | openai_errors(NotFound, JobNotEnded))
async def delete(context: Context, caller: Canceller, id: Id) -> Response:
    """Delete an ended response: its record, images and output."""
    await delete_job(context, caller.tenant, job_id(id))
    return json_response(DeletedResponse(id=response_id(job_id(id))))


@router.post(
    "/v1/responses/{id}/cancel",
    responses=answers(ResponseBody) | openai_errors(NotFound, Malformed, ResultLost, StorageUnavailable),
)
async def cancel(request: Request, context: Context, caller: Canceller, id: Id) -> Response:
    """Cancel: a queued response ends at once, one in progress within about a second, an ended one stays as it is."""
    read_headers(request)
    await refuse_body(request, context.settings)
    await cancel_job(context, caller.tenant, job_id(id))
    job = await context.queries.wait_until_ended(caller.tenant, job_id(id), CANCEL_WAIT_S)
    return await _respond(context, job)


@router.get(
    "/v1/responses/{id}/input_items",
    responses=answers(InputItemList) | openai_errors(NotFound, InvalidField, StorageUnavailable),
)
async def list_input(  # noqa: PLR0917  # FastAPI reads the query from it
    context: Context,
    caller: Reader,
    id: Id,
    after: Annotated[str | None, Query(description="`last_id` of the previous page")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
) -> Response:
    """What was asked, earlier turns included; images by their path under `/v1/jobs`."""
    job = await context.queries.get(caller.tenant, job_id(id))
    try:
        asked = await context.storage.request(job.id)
    except ObjectMissing as error:
        raise NotFound("the request of this response is no longer stored") from error
    images = f"{context.settings.root_path}/v1/jobs/{job.id}/images/{{n}}"
    items = input_items(job.id, asked, images)
    page = page_of(items, after=after, limit=limit, newest_first=order == "desc")
    if page is None:
        raise InvalidField("`after` is not the id of an item of this response", field="after")
    return json_response(page)


async def _respond(context: AppContext, job: Job) -> Response:
    return json_response(response_body(job, await context.queries.body(job)), headers=retry_after(job))


def _stream(context: AppContext, job: Job, after: int, *, store: bool = True) -> Response:
    context.streams.refuse_if_full()
    return stream_answer(context, job, encoded(job, context.streams.stream(job), after), store=store)
