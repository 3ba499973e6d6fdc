"""A request body becomes a `Submission`: the question and the files that came with it, checked for form only.

`parse_submission` reads both forms of a job, `parse_batch` both forms of a batch.
"""

import re
from collections.abc import Mapping
from typing import Any

from fastapi import Request

from services.intake.schemas.requests import BatchRequest, JobRequest, without_nulls, without_webhook_nulls
from services.intake.schemas.validation import read
from services.intake.submission import generation
from services.intake.submission.body import CHARSET_FIELD, Form, MultipartLimits, read_body
from services.intake.submission.image_source import read_image
from services.intake.submission.json_body import Reservation
from services.intake.submission.json_strict import parse_object
from services.intake.submission.model import BatchSubmission, Submission, translated
from services.intake.submission.size_errors import too_many_images
from services.intake.uploads import ImageSource, Upload
from shared.errors import InvalidField
from shared.requests import Generation
from shared.settings.roles import IntakeSettings

PLAIN_FIELDS = ("prompt", "model", "tiles", "max_new_tokens", "webhook")
#: Names that clients give the parts of images.
IMAGE_PARTS = ("image", "image[]", "images", "images[]")
FILES_PER_JOB = 4  #: file parts of a batch, for each job that the service allows
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}")


async def parse_submission(request: Request, settings: IntakeSettings) -> Submission:
    """Return the job that the body of `request` asks for. Raises `RequestError`."""

    def read_object(body: dict[str, Any], _: Reservation) -> Submission:
        images = body.pop("images", None)
        return Submission(read(JobRequest, translated(body)), _read_images(images, settings))

    body = await read_body(request, settings, _job_parts(settings.max_images), read_object)
    if isinstance(body, Form):
        return Submission(read(JobRequest, translated(_form_request(body))), body.files)
    return body


async def parse_batch(request: Request, settings: IntakeSettings) -> BatchSubmission | dict[str, Any]:
    """Return the batch that the body of `request` asks for; the body itself where it names a file of requests.

    Raises `RequestError`.
    """

    def read_object(body: dict[str, Any], held: Reservation) -> BatchSubmission | dict[str, Any]:
        if "input_file_id" in body:
            return body
        return BatchSubmission(_batch_request(body, settings), {}, settings, held)

    body = await read_body(request, settings, _batch_parts(settings.max_batch_jobs), read_object)
    if not isinstance(body, Form):
        return body
    if "request" not in body.fields:
        raise InvalidField("a multipart batch needs a part `request` with the JSON", field="request")
    parts: dict[str, Upload] = {}
    for upload in body.files:
        if upload.name in parts:
            raise InvalidField(f"duplicate part {upload.name[:80]!r}", field=upload.name[:80])
        parts[upload.name] = upload
    asked = _batch_request(parse_object(body.text("request")), settings)
    _check_parts_are_named(parts, asked)
    return BatchSubmission(asked, parts, settings)


def _check_parts_are_named(parts: Mapping[str, Upload], request: BatchRequest) -> None:
    """Raise `InvalidField` for a file that no job names: the question about it would be answered without it."""
    lists = [job["images"] for job in request.jobs if isinstance(job.get("images"), list)]
    named = {str(image.get("part")) for images in lists for image in images if isinstance(image, dict)}
    for name in parts:
        if name not in named:
            detail = f'no job names the part {name[:80]!r}; name it in its `images` as {{"part": {name[:80]!r}}}'
            raise InvalidField(detail, field=name[:80])


def _job_parts(max_images: int) -> MultipartLimits:
    return MultipartLimits(
        IMAGE_PARTS.__contains__,
        max_images,
        too_many_files=lambda: too_many_images(max_images + 1, max_images),
        check_field=_check_form_field,
    )


def _batch_parts(max_jobs: int) -> MultipartLimits:
    return MultipartLimits(lambda name: name not in ("request", CHARSET_FIELD), max_jobs * FILES_PER_JOB, max_fields=2)


def _check_form_field(name: str) -> None:
    if name in (*PLAIN_FIELDS, "request", CHARSET_FIELD):
        return
    known = ", ".join(f"`{field}`" for field in PLAIN_FIELDS)
    if name in JobRequest.model_fields or name in Generation.model_fields:
        hint = "send it in the JSON of a part named `request`, which then holds all fields"
    elif name.lower().startswith(("image", "file", "photo", "picture", "upload")):
        hint = "name the parts of images `image`"
    else:
        hint = f"fields are {known}; everything else goes into the JSON of a part named `request`"
    raise InvalidField(f"unknown form field {name[:80]!r}: {hint}", field=name)


def _form_request(form: Form) -> dict[str, Any]:
    """Return the JSON that the fields of a form stand for; empty fields count as absent."""
    for name in form.fields:
        _check_form_field(name)
    sent = [name for name in form.fields if name != CHARSET_FIELD and (form.has(name) or name == "prompt")]
    if "request" in sent:
        if len(sent) > 1:
            raise InvalidField("send either the part `request` or plain fields, not both", field="request")
        asked = parse_object(form.text("request"))
        if asked.pop("images", None) is not None:
            raise InvalidField("in a multipart body images are parts named `image`", field="images")
        return asked
    asked = {name: form.text(name) for name in ("prompt", "model") if name in sent}
    if "tiles" in sent:
        asked["tiles"] = _integer(form, "tiles")
    if "max_new_tokens" in sent:
        asked["generation"] = {"max_new_tokens": _integer(form, "max_new_tokens")}
    if "webhook" in sent:
        asked["webhook"] = {"url": form.text("webhook")}
    return asked


def _integer(form: Form, name: str) -> int:
    text = form.text(name).strip()
    if not _INTEGER.fullmatch(text):
        more = "; a list goes into the JSON of a part named `request`" if "," in text else ""
        raise InvalidField(f"`{name}` must be an integer, not {text[:40]!r}{more}", field=name)
    return int(text)


def _read_images(images: Any, settings: IntakeSettings) -> list[ImageSource]:
    if images is None:
        return []
    if not isinstance(images, list):
        raise InvalidField("`images` must be a list of data URIs, files or URLs", field="images")
    if len(images) > settings.max_images:
        raise too_many_images(len(images), settings.max_images)
    return [read_image(image, n, settings) for n, image in enumerate(images)]


def _batch_request(body: dict[str, Any], settings: IntakeSettings) -> BatchRequest:
    """Read everything but the jobs, which are large and judged one by one."""
    jobs = body.pop("jobs", None)
    if not isinstance(jobs, list) or not jobs or not all(isinstance(job, dict) for job in jobs):
        detail = "`jobs` must be a list of at least one request; a batch of a file names it by `input_file_id`"
        raise InvalidField(detail, field="jobs")
    if len(jobs) > settings.max_batch_jobs:
        detail = f"the batch has {len(jobs)} jobs; at most {settings.max_batch_jobs} are allowed"
        raise InvalidField(detail, field="jobs")
    if isinstance(defaults := body.get("defaults"), dict):
        defaults = without_webhook_nulls(defaults)
        if "generation" in defaults:
            defaults["generation"] = generation.translate(defaults["generation"], "defaults.generation")
        body = body | {"defaults": defaults}
    body = without_webhook_nulls(without_nulls(body, BatchRequest))
    return read(BatchRequest, {**body, "jobs": [{}]}).model_copy(update={"jobs": jobs})
