"""`/v1/batches`: many questions taken in together or not at all, their states and answers together."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from services.intake.context import Here, House, Tenant
from services.intake.error_docs import JUDGING, TEXT, refuses, shows, streams
from services.intake.openapi import BATCH_ACCEPTED, BATCH_FORM_OR_JSON
from services.intake.routes.jobs import Id, Limit, shown
from services.intake.schemas.requests import BatchJob, BatchRequest, Defaults, read
from services.intake.schemas.responses import BatchBody, BatchCancelBody, JobPage, answer, dump
from services.intake.submission.body import FORM, Shape, Upload, media_type, read_form, read_json
from services.intake.submission.commit import Order, accept, order, webhook_of
from services.intake.submission.headers import idempotency_key, traceparent
from services.intake.submission.idempotency import held
from services.intake.submission.image_headers import Header
from services.intake.submission.json_strict import parse_object
from services.intake.submission.parse import Draft, read_data_uri
from shared import batches, errors, transitions
from shared.batches import Batch
from shared.errors import BodyTooLarge, InvalidField, NotFound, RequestError, ResultLost
from shared.ids import is_id, new_id
from shared.jobs import Job
from shared.settings import Settings
from shared.views import batch_view, job_view

router = APIRouter(tags=["batches"])

COPIES = (
    16  #: times `max_body_bytes` that the pictures of a batch may come to, each counted for every job that names it
)
PAGE = 100  #: jobs read at once
_SHOWN = 1000  #: bad jobs listed


@dataclass(frozen=True)
class Bundle:
    """A batch as it was asked: its jobs as they stand in the body, and the file parts they may name."""

    asked: BatchRequest
    parts: Mapping[str, Upload]


@router.post(
    "/v1/batches",
    status_code=202,
    responses=BATCH_ACCEPTED | refuses(*JUDGING),
    openapi_extra=BATCH_FORM_OR_JSON,
)
async def submit(request: Request, house: Here, tenant: Tenant) -> Response:
    """Take many questions in, all or none: one bad one refuses the batch, and every bad one is listed in `errors`."""
    key = idempotency_key(request)
    bundle = await _read(request, house.settings)
    async with held(house.desk, tenant, key, _fingerprint(bundle)) as kept:
        if not kept.replay:
            id = new_id("batch")
            common = {"batch": id, "trace": traceparent(request)}
            orders = await _orders(house, tenant, bundle, common)
            webhook = bundle.asked.webhook
            hook = await webhook_of(house, webhook, ["batch.ended"]) if webhook else None
            record = _record(id, tenant, bundle.asked, hook) | ({"idem": kept.key} if kept.key else {})
            await accept(house, tenant, orders, kept, subject=id, batch=record)
    batch = await _batch(house, tenant, kept.replay or id)
    headers = {"Location": f"/v1/batches/{batch.id}"}
    if not batch.ended:
        headers["Retry-After"] = "2"
    if kept.replay:
        headers["Idempotent-Replayed"] = "true"
    return answer(batch_view(batch), 200 if batch.ended else 202, headers)


@router.get("/v1/batches/{id}", responses=shows(BatchBody) | refuses(NotFound))
async def show(house: Here, tenant: Tenant, id: Id) -> Response:
    """Counts per state; `ended` once no job is open."""
    batch = await _batch(house, tenant, id)
    return answer(batch_view(batch), headers={} if batch.ended else {"Retry-After": "2"})


@router.get(
    "/v1/batches/{id}/jobs",
    responses=shows(JobPage) | refuses(NotFound, InvalidField),
)
async def jobs(
    house: Here,
    tenant: Tenant,
    id: Id,
    limit: Limit = 20,
    after: Annotated[int, Query(ge=0, le=1 << 31, description="`next` of the page before")] = 0,
) -> Response:
    """The jobs in the order they were given."""
    await _batch(house, tenant, id)
    ids = await _ids(house, tenant, id, after, after + limit)
    found = await house.desk.run(transitions.read_jobs(ids[:limit])) if ids else []
    return answer({"data": [job_view(job) for job in found], "next": str(after + limit) if len(ids) > limit else None})


@router.get(
    "/v1/batches/{id}/results",
    response_class=StreamingResponse,
    responses=streams("application/jsonl", "JSON Lines of ended jobs", TEXT)
    | refuses(NotFound, errors.StorageUnavailable),
)
async def results(house: Here, tenant: Tenant, id: Id) -> Response:
    """The ended jobs, one a line, in the order they were given."""
    await _batch(house, tenant, id)
    first = await _lines(house, tenant, id, 0)  # what goes wrong at once is refused as any other call does
    return StreamingResponse(_rest(house, tenant, id, first), media_type="application/jsonl")


@router.post("/v1/batches/{id}/cancel", responses=shows(BatchCancelBody) | refuses(NotFound))
async def cancel(house: Here, tenant: Tenant, id: Id) -> Response:
    """Cancel every job that has not ended."""
    before = await _batch(house, tenant, id)
    outcomes: set[str] = set()
    for start in range(0, before.total if not before.ended else 0, PAGE):
        ids = await _ids(house, tenant, id, start, start + PAGE - 1)
        moves = await asyncio.gather(*(house.desk.run(transitions.cancel(tenant, job)) for job in ids))
        outcomes |= {move.value for move in moves}
        house.post.deliveries(*(message for move in moves for message in move.messages))
    outcome = next((word for word in ("cancelling", "cancelled") if word in outcomes), "already_ended")
    return answer({"outcome": outcome, "batch": batch_view(await _batch(house, tenant, id))})


async def _read(request: Request, settings: Settings) -> Bundle:
    if media_type(request) != FORM:
        return Bundle(_asked(await read_json(request, settings), settings), {})
    most = settings.max_batch_jobs * 4
    form = await read_form(request, settings, Shape(lambda name: name != "request", most, most_texts=1))
    if "request" not in form.texts:
        raise InvalidField("a multipart batch has a part `request` with the JSON", field="request")
    parts: dict[str, Upload] = {}
    for upload in form.files:
        if upload.name in parts:
            raise InvalidField(f"the part {upload.name[:80]!r} is there twice", field=upload.name[:80])
        parts[upload.name] = upload
    return Bundle(_asked(parse_object(form.texts["request"]), settings), parts)


def _asked(body: dict[str, Any], settings: Settings) -> BatchRequest:
    """Read the frame; the jobs are kept aside, since pictures in them are large and each is judged by itself."""
    jobs = body.pop("jobs", None)
    if not isinstance(jobs, list) or not jobs or not all(isinstance(job, dict) for job in jobs):
        raise InvalidField("`jobs` is a list of at least one request", field="jobs")
    if len(jobs) > settings.max_batch_jobs:
        raise InvalidField(f"the batch has {len(jobs)} jobs; {settings.max_batch_jobs} are the most", field="jobs")
    return read(BatchRequest, {**body, "jobs": [{}]}).model_copy(update={"jobs": jobs})


def _fingerprint(bundle: Bundle) -> str:
    frame = bundle.asked.model_dump(mode="json")
    parts = sorted((name, upload.sha256) for name, upload in bundle.parts.items())
    return hashlib.sha256(json.dumps(["batch", frame, parts], sort_keys=True).encode()).hexdigest()


async def _orders(house: House, tenant: str, bundle: Bundle, common: dict[str, str]) -> list[Order]:
    """Judge every job; refuse the batch with a list of those that are bad."""
    orders: list[Order] = []
    bad: list[dict[str, Any]] = []
    names: set[str] = set()
    seen: dict[str, Header] = {}
    for index, job in enumerate(bundle.asked.jobs):
        try:
            draft, name = _draft(job, bundle, house.settings)
            if name in names:
                raise InvalidField(f"custom_id {name!r} is there twice", field="custom_id")
            names |= {name} if name else set()
            orders.append(await order(house, tenant, draft, seen, custom_id=name, **common))
        except RequestError as error:
            if error.status >= 500:
                raise
            bad.append(_told(index, job, error))
    if bad:
        detail = f"{len(bad)} of {len(bundle.asked.jobs)} jobs are refused, so none was taken in; `errors` lists them"
        raise InvalidField(detail, field="jobs", errors=bad[:_SHOWN])
    _check_copies(orders, house.settings)
    return orders


def _draft(job: dict[str, Any], bundle: Bundle, settings: Settings) -> tuple[Draft, str]:
    asked = _merged(bundle.asked.defaults, {name: value for name, value in job.items() if name != "images"})
    read_job = read(BatchJob, asked)
    images = job.get("images", [])
    if not isinstance(images, list):
        raise InvalidField("`images` is a list", field="images")
    uploads = [_picture(image, n, bundle, settings) for n, image in enumerate(images)]
    return Draft(read_job, uploads), read_job.custom_id or ""


def _merged(defaults: Defaults, job: dict[str, Any]) -> dict[str, Any]:
    said = defaults.model_dump(mode="json", exclude_none=True)
    if "prompt" in job or "messages" in job:
        said = {name: value for name, value in said.items() if name not in ("prompt", "messages")}
    merged = said | job
    if isinstance(job.get("generation"), dict):
        merged["generation"] = said.get("generation", {}) | job["generation"]
    return merged


def _picture(image: Any, n: int, bundle: Bundle, settings: Settings) -> Upload:
    if not isinstance(image, dict):
        return read_data_uri(image, n, settings.max_image_bytes)
    name = image.get("part")
    if set(image) != {"part"} or not isinstance(name, str):
        raise InvalidField(f'image {n} is neither a data URI nor {{"part": "name"}}', field=f"images.{n}", image=n)
    if name not in bundle.parts:
        raise InvalidField(f"image {n} names the part {name[:80]!r}, which is not there", field=f"images.{n}", image=n)
    return bundle.parts[name]


def _told(index: int, job: dict[str, Any], error: RequestError) -> dict[str, Any]:
    name = job.get("custom_id")
    return {
        "index": index,
        "custom_id": name[:128] if isinstance(name, str) else None,
        "code": error.code,
        "detail": error.detail,
        "field": error.field,
        "image": error.image,
    }


def _check_copies(orders: Sequence[Order], settings: Settings) -> None:
    stored = sum(image.bytes for one in orders for image in one.request.images)
    most = COPIES * settings.max_body_bytes
    if stored > most:
        detail = f"the pictures of the batch, each counted for every job that names it, are {stored} bytes"
        raise BodyTooLarge(f"{detail}; {most} are the most: send it in several")


def _record(id: str, tenant: str, asked: BatchRequest, webhook: dict[str, Any] | None) -> dict[str, str]:
    """Return the batch's hash, as it is also stored for the day that Redis is lost."""
    record = {"id": id, "tenant": tenant, "total": str(len(asked.jobs)), "created": f"{time.time():.6f}"}
    if asked.metadata:
        record["metadata"] = json.dumps(asked.metadata, ensure_ascii=False)
    if webhook:
        record["webhook"] = json.dumps(webhook, ensure_ascii=False)
    return record


async def _batch(house: House, tenant: str, id: str) -> Batch:
    found = await house.desk.run(batches.read(tenant, id, 0, 0)) if is_id("batch", id) else None
    if found is None:
        raise NotFound
    return found[0]


async def _ids(house: House, tenant: str, id: str, first: int, last: int) -> list[str]:
    found = await house.desk.run(batches.read(tenant, id, first, last))
    return found[1] if found else []


async def _lines(house: House, tenant: str, id: str, start: int) -> bytes | None:
    """Return the lines of the jobs from `start` on, a page of them; None behind the last."""
    ids = await _ids(house, tenant, id, start, start + PAGE - 1)
    if not ids:
        return None
    found = [job for job in await house.desk.run(transitions.read_jobs(ids)) if job.state.terminal]
    bodies = await asyncio.gather(*(_with_output(house, job) for job in found))
    return b"".join([dump(body) + b"\n" for body in bodies])


async def _with_output(house: House, job: Job) -> dict[str, Any]:
    """Return the whole view of `job`; one whose result object is gone says so in its line."""
    try:
        return await shown(house, job)
    except ResultLost:
        return job_view(job, lost=True)


async def _rest(house: House, tenant: str, id: str, lines: bytes | None) -> AsyncIterator[bytes]:
    start = 0
    while lines is not None:
        yield lines
        start += PAGE
        lines = await _lines(house, tenant, id, start)
