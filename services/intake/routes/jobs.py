"""`/v1/jobs`: take in, tell, wait, cancel, retry, delete."""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from services.intake.context import Here, House, Tenant
from services.intake.error_docs import EVENT, JUDGING, refuses, shows, streams
from services.intake.metrics import ACCEPT
from services.intake.openapi import ACCEPTED, FORM_OR_JSON, PREFERENCES
from services.intake.schemas.responses import CancelBody, JobBody, JobPage, ResultBody, StateName, answer
from services.intake.submission.commit import Order, accept, inline, order, stored_request
from services.intake.submission.headers import idempotency_key, preferred_wait, traceparent
from services.intake.submission.idempotency import held
from services.intake.submission.parse import read_draft
from shared import errors, transitions
from shared.errors import InvalidField, JobFailed, JobNotEnded, NotFound, ObjectMissing, RequestError, ResultLost
from shared.ids import is_id, new_id
from shared.jobs import Job, State
from shared.objects import image_key, job_prefix
from shared.transitions import Submitted
from shared.views import job_view

router = APIRouter(tags=["jobs"])

Id = Annotated[str, Path(description="`job_…`")]
Wait = Annotated[
    float | None,
    Query(ge=0, le=60, allow_inf_nan=False, description="seconds to wait for the end of the job before answering"),
]
Limit = Annotated[int, Query(ge=1, le=100)]
_FILTERS = ("state", "batch", "limit", "after")
_KNOWN = re.compile(r"(\d{1,20}-\d{1,20})/\d{1,20}")
_LONGEST_RETRY_AFTER = 30


@router.post("/v1/jobs", status_code=202, responses=ACCEPTED | refuses(*JUDGING), openapi_extra=FORM_OR_JSON)
async def submit(request: Request, house: Here, tenant: Tenant) -> Response:
    """Take a question in. 202 means that the job will end, once, and say how."""
    key = idempotency_key(request)
    draft = await read_draft(request, house.settings)
    async with held(house.desk, tenant, key, draft.fingerprint("job")) as kept:
        if not kept.replay:
            one = await order(house, tenant, draft, {}, trace=traceparent(request))
            job = _taken(one, await accept(house, tenant, [one], kept, subject=one.job.id))
            ACCEPT.observe(time.monotonic() - request.state.began)
    if kept.replay:
        job = await job_of(house, tenant, kept.replay)
    return await _submitted(request, house, job, replayed=bool(kept.replay))


@router.get("/v1/jobs", responses=shows(JobPage) | refuses(InvalidField))
async def listing(  # noqa: PLR0917  # FastAPI reads the query from it
    request: Request,
    house: Here,
    tenant: Tenant,
    state: Annotated[StateName | None, Query()] = None,
    batch: Annotated[str | None, Query(description="`batch_…`")] = None,
    limit: Limit = 20,
    after: Annotated[str | None, Query(description="`next` of the page before")] = None,
) -> Response:
    """Jobs, newest first. `metadata.KEY=VALUE` keeps those whose metadata says so; it may be repeated."""
    wanted = _wanted(request)
    for field, kind, id in (("batch", "batch", batch), ("after", "job", after)):
        if id is not None and not is_id(kind, id):
            raise InvalidField(f"`{field}` is no id of a {kind}", field=field)
    found, following = await house.desk.run(
        transitions.list_jobs(
            tenant, state=state or "", batch=batch or "", after=after or "", limit=limit, metadata=wanted
        )
    )
    return answer({"data": [job_view(job) for job in found], "next": following or None})


@router.get(
    "/v1/jobs/{id}", responses=shows(JobBody) | refuses(NotFound, InvalidField, ResultLost, errors.StorageUnavailable)
)
async def read(house: Here, tenant: Tenant, id: Id, wait: Wait = None) -> Response:
    """A job as it is; with `wait`, as it is at its end or after so many seconds."""
    job = await (ended(house, tenant, id, wait) if wait else job_of(house, tenant, id))
    return answer(await shown(house, job), headers=_hint(job))


@router.delete("/v1/jobs/{id}", status_code=204, responses=refuses(NotFound, JobNotEnded))
async def delete(house: Here, tenant: Tenant, id: Id) -> Response:
    """Remove an ended job: record, pictures, answer."""
    await job_of(house, tenant, id)
    outcome = await house.desk.run(transitions.delete(tenant, id))
    if outcome == "not_found":
        raise NotFound
    if outcome == "not_ended":
        raise JobNotEnded("the job has not ended; cancel it first")
    await house.streams.forget(id)
    try:
        await house.storage.delete(job_prefix(id))
        await house.desk.run(transitions.emptied([id]))
    except RequestError:  # its id lies in the trash, which the keeper empties
        pass
    return Response(status_code=204)


@router.post("/v1/jobs/{id}/cancel", responses=shows(CancelBody) | refuses(NotFound))
async def cancel(house: Here, tenant: Tenant, id: Id) -> Response:
    """Cancel: a queued job ends at once, a running one within a second or so, an ended one stays as it is."""
    await job_of(house, tenant, id)
    moved = await house.desk.run(transitions.cancel(tenant, id))
    if not moved.value:
        raise NotFound
    house.post.deliveries(*moved.messages)
    return answer({"outcome": moved.value, "job": job_view(await job_of(house, tenant, id))})


@router.post(
    "/v1/jobs/{id}/retry",
    status_code=202,
    responses=ACCEPTED | refuses(NotFound, JobNotEnded, errors.Overloaded, errors.StorageUnavailable),
    openapi_extra={"parameters": PREFERENCES[1:]},
)
async def retry(request: Request, house: Here, tenant: Tenant, id: Id) -> Response:
    """Ask the same again, as a new job with `retry_of`."""
    old = await job_of(house, tenant, id)
    if not old.state.terminal:
        raise JobNotEnded
    one = await _again(house, old, traceparent(request))
    async with held(house.desk, tenant, None, "") as kept:
        job = _taken(one, await accept(house, tenant, [one], kept, subject=one.job.id))
    return await _submitted(request, house, job, replayed=False)


@router.get(
    "/v1/jobs/{id}/result",
    responses=shows(ResultBody) | refuses(NotFound, JobNotEnded, JobFailed, ResultLost, errors.StorageUnavailable),
)
async def result(house: Here, tenant: Tenant, id: Id) -> Response:
    """The answer alone, once there is one."""
    job = await job_of(house, tenant, id)
    if not job.state.terminal:
        raise JobNotEnded(retry_after=float(_hint(job)["Retry-After"]))
    if job.state is not State.SUCCEEDED:
        why = job.error or {"code": job.state.value, "message": "it was cancelled"}
        detail = f"the job ended {job.state.value}: {why.get('message')}"
        raise JobFailed(detail, image=why.get("image"), errors=[why])
    output = await house.storage.output(job)
    return answer({"text": output["text"], "finish_reason": output["finish_reason"], "usage": job.usage})


@router.get(
    "/v1/jobs/{id}/events",
    response_class=StreamingResponse,
    responses=streams("text/event-stream", "server-sent events", EVENT)
    | refuses(NotFound, InvalidField, errors.Overloaded),
)
async def events(
    house: Here, tenant: Tenant, id: Id, last_event_id: Annotated[str | None, Header(max_length=100)] = None
) -> Response:
    """The job as it happens: `state`, `delta`, `reset`, `end`. `Last-Event-ID` resumes."""
    job = await job_of(house, tenant, id)
    house.streams.refuse_if_full()
    known = _KNOWN.fullmatch(last_event_id or "")
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        house.streams.tell(job, known[1] if known else ""), headers=headers, media_type="text/event-stream"
    )


async def job_of(house: House, tenant: str, id: str) -> Job:
    """Return a job of `tenant`. One of another, one that never was and what is no id at all answer alike."""
    job = await house.desk.run(transitions.read_job(tenant, id)) if is_id("job", id) else None
    if job is None:
        raise NotFound
    return job


async def ended(house: House, tenant: str, id: str, seconds: float) -> Job:
    """Return a job at its end, or as it is after `seconds`."""
    until = time.monotonic() + seconds
    with house.changes.watch(id) as watch:
        while True:
            job = await job_of(house, tenant, id)
            left = until - time.monotonic()
            if job.state.terminal or left <= 0 or watch.closed:
                return job
            await watch.changed(left)


async def shown(house: House, job: Job) -> dict[str, Any]:
    """Return the whole view of `job`, a large output fetched."""
    output = None
    if job.state is State.SUCCEEDED:
        output = await house.storage.output(job)
    return job_view(job, output)


def _taken(one: Order, submitted: Submitted) -> Job:
    """Return the job just taken in, as the store has it."""
    at = submitted.at
    return replace(one.job, created=at, expires=at + one.job.retain, position=submitted.position)


async def _submitted(request: Request, house: House, job: Job, *, replayed: bool) -> Response:
    wait = preferred_wait(request)
    if wait and not job.state.terminal:
        job = await ended(house, job.tenant, job.id, wait)
    over = job.state.terminal and (replayed or bool(wait))  # a quick worker does not turn a plain 202 into a 200
    headers = {"Location": f"/v1/jobs/{job.id}"} | ({} if over else {"Retry-After": "1"} | _hint(job))
    if wait is not None:
        headers["Preference-Applied"] = f"wait={wait:g}"
    if replayed:
        headers["Idempotent-Replayed"] = "true"
    return answer(await shown(house, job), 200 if over else 202, headers)


async def _again(house: House, old: Job, trace: str) -> Order:
    """Return an order for what `old` was asked."""
    id = new_id("job")
    try:
        asked = await stored_request(house, old.id)
    except ObjectMissing as error:
        raise NotFound("what the job was asked is no longer stored") from error
    images = tuple(image.model_copy(update={"key": image_key(id, n)}) for n, image in enumerate(asked.images))
    request = asked.model_copy(update={"images": images})
    kept = ("tenant", "model", "priority", "start_within", "run_within", "images", "webhook", "metadata", "parent")
    job = Job(
        id=id,
        **{name: getattr(old, name) for name in kept},
        max_attempts=house.settings.max_attempts,
        retain=house.settings.retain_for,
        retry_of=old.id,
        trace=trace,
        request=inline(request),
    )
    return Order(job, request, copies=[image.key for image in asked.images])


def _hint(job: Job) -> dict[str, str]:
    """Say when it is worth asking again."""
    if job.state.terminal:
        return {}
    return {"Retry-After": str(min(_LONGEST_RETRY_AFTER, 1 + max(0, job.position) // 4))}


def _wanted(request: Request) -> Mapping[str, str]:
    wanted: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith("metadata.") and len(name) > len("metadata."):
            wanted[name.removeprefix("metadata.")] = value
        elif name not in _FILTERS:
            known = ", ".join(_FILTERS)
            raise InvalidField(f"there is no query parameter {name[:80]!r}; {known} and metadata.KEY are", field=name)
    return wanted
