"""What a caller asks for, read and checked for form only."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.intake.schemas.requests import (
    BatchJob,
    BatchRequest,
    Defaults,
    JobRequest,
    without_nulls,
    without_webhook_nulls,
)
from services.intake.schemas.validation import read
from services.intake.submission import generation
from services.intake.submission.image_source import read_image
from services.intake.submission.json_body import Reservation
from services.intake.uploads import ImageSource, Upload
from shared.errors import InvalidField, RequestError
from shared.records import OpenAiOptions
from shared.settings.roles import IntakeSettings


@dataclass(frozen=True)
class RequestHeaders:
    """What the headers of one request ask for."""

    idempotency_key: str | None = None  #: SHA-256 of the key, which the store knows it by
    wait_s: float | None = None  #: `Prefer: wait=N`
    traceparent: str = ""  #: W3C trace context


@dataclass(frozen=True)
class Submission:
    """One question as it was asked."""

    question: JobRequest
    uploads: Sequence[ImageSource] = ()
    custom_id: str = ""
    openai: OpenAiOptions | None = None

    def fingerprint(self) -> str:
        """Return what tells this request from another under the same Idempotency-Key; images count by content."""
        kind = "job" if self.openai is None else self.openai.model_dump_json()
        return _digest(self.question.model_dump(mode="json"), [upload.sha256 for upload in self.uploads], kind)


@dataclass(frozen=True)
class RejectedItem:
    """A job of a batch that could not be read."""

    index: int
    custom_id: str | None
    error: RequestError


@dataclass(frozen=True)
class BatchSubmission:
    """A batch as it was asked. Its jobs are read one at a time, so that every bad one can be listed."""

    request: BatchRequest
    parts: Mapping[str, Upload]
    settings: IntakeSettings
    held: Reservation | None = None  #: of a JSON body, whose images are decoded job by job

    def fingerprint(self) -> str:
        """Return what tells this request from another under the same Idempotency-Key."""
        parts = sorted((name, upload.sha256) for name, upload in self.parts.items())
        return _digest("batch", self.request.model_dump(mode="json"), parts)

    @property
    def size(self) -> int:
        """Bytes of the JSON body that is held; 0 where images came as parts."""
        return self.held.size if self.held else 0

    def items(self) -> Iterator[Submission | RejectedItem]:
        """Yield each job in order, or why it can't be read."""
        seen: set[str] = set()
        for index, job in enumerate(self.request.jobs):
            try:
                item = self._item(job)
                if item.custom_id in seen:
                    raise InvalidField(f"duplicate custom_id {item.custom_id!r}", field="custom_id")
                seen |= {item.custom_id} - {""}
                yield item
            except RequestError as error:
                yield RejectedItem(index, custom_id_of(job), error)

    def _item(self, job: dict[str, Any]) -> Submission:
        own = {name: value for name, value in job.items() if name != "images"}
        question = read(BatchJob, translated(_merge(self.request.defaults, own)))
        images = [] if job.get("images") is None else job["images"]
        if not isinstance(images, list):
            raise InvalidField("`images` must be a list", field="images")
        uploads = [read_image(image, n, self.settings, self.parts) for n, image in enumerate(images)]
        return Submission(question, uploads, question.custom_id or "")


def custom_id_of(job: Mapping[str, Any]) -> str | None:
    """Return the `custom_id` of a job of a batch as far as it can be shown, or None."""
    name = job.get("custom_id")
    return name[:128] if isinstance(name, str) else None


def translated(body: dict[str, Any]) -> dict[str, Any]:
    """Return `body` without nulls and with its generation in tileq's fields.

    Raises `InvalidField` for a field of generation that stands beside it.
    """
    for name in body:
        if name in generation.NAMES:
            raise InvalidField(f"unknown field `{name}`; it goes into `generation`", field=name)
    body = without_webhook_nulls(without_nulls(body, BatchJob))
    return body | {"generation": generation.translate(body["generation"])} if "generation" in body else body


def _merge(defaults: Defaults, job: dict[str, Any]) -> dict[str, Any]:
    """Return `job` with the fields that it leaves to the defaults of its batch."""
    base = defaults.model_dump(mode="json", exclude_none=True)
    if "prompt" in job or "messages" in job:
        base = {name: value for name, value in base.items() if name not in ("prompt", "messages")}
    job = without_nulls(job, Defaults)
    merged = base | job
    if isinstance(job.get("generation"), dict):
        merged["generation"] = base.get("generation", {}) | job["generation"]
    return merged


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
