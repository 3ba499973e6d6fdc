"""The OpenAPI document where FastAPI can't derive it: bodies read as they arrive, errors by code, headers."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from services.intake.errors import Unexpected
from services.intake.native import PROBLEM_JSON
from services.intake.schemas import openai as openai_schema
from services.intake.schemas import requests as schema
from services.intake.schemas import uploads as upload_schema
from services.intake.schemas import webhook_endpoints as endpoint_schema
from services.intake.schemas.responses import Problem
from services.intake.submission.body import FORM, JSON
from shared import errors as shared_errors
from shared.errors import RequestError
from shared.openai.events import OpenAiEvent
from shared.views import BatchBody, JobBody, WebhookEvent
from shared.webhooks.events import EVENT_TYPES, is_openai

#: Errors of every call that authenticates.
COMMON_ERRORS: tuple[type[RequestError], ...] = (
    shared_errors.MissingKey,
    shared_errors.InvalidKey,
    shared_errors.InsufficientScope,
    shared_errors.InvalidField,
    shared_errors.RateLimited,
    shared_errors.QueueUnavailable,
    Unexpected,
)
#: Errors of every call that accepts a question.
SUBMIT_ERRORS: tuple[type[RequestError], ...] = (
    shared_errors.Malformed,
    shared_errors.BodyTooLarge,
    shared_errors.ImageTooLarge,
    shared_errors.UnsupportedMediaType,
    shared_errors.UnsupportedImageType,
    shared_errors.InvalidField,
    shared_errors.UnknownModel,
    shared_errors.UndecodableImage,
    shared_errors.ImageTooManyPixels,
    shared_errors.TooManyImages,
    shared_errors.TooManyTiles,
    shared_errors.ImageCountMismatch,
    shared_errors.PromptTooLong,
    shared_errors.UnknownParent,
    shared_errors.UnknownFile,
    shared_errors.ImageUrlsDisabled,
    shared_errors.ImageUrlRefused,
    shared_errors.WebhookRefused,
    shared_errors.IdempotencyMismatch,
    shared_errors.IdempotencyInProgress,
    shared_errors.QuotaExceeded,
    shared_errors.Overloaded,
    shared_errors.ResultLost,
    shared_errors.StorageUnavailable,
)
_RETRY_STATUSES = (429, 503)

TEXT = {"type": "string"}

Responses = dict[int | str, dict[str, Any]]


def returns(model: type[BaseModel], status: int = 200) -> Responses:
    """Return the `responses` of a route that answers with `model`."""
    return {status: {"model": model}}


def returns_either(one: type[BaseModel], other: type[BaseModel]) -> Responses:
    """Return the `responses` of a route that answers with one of two models."""
    return {200: {"model": one | other}}


def returns_stream(media_type: str, description: str, schema: Mapping[str, Any]) -> Responses:
    """Return the `responses` of a route that answers with a stream."""
    return {200: {"description": description, "content": {media_type: {"schema": schema}}}}


def errors(*kinds: type[RequestError]) -> Responses:
    """Return the `responses` of a route that raises `kinds`, beside the common errors."""
    by_status: dict[int | str, list[str]] = {}
    for kind in (*kinds, *COMMON_ERRORS):
        codes = by_status.setdefault(kind.status, [])
        if kind.code not in codes:
            codes.append(kind.code)
    return {status: _response(status, codes) for status, codes in sorted(by_status.items())}


def _response(status: int | str, codes: list[str]) -> dict[str, Any]:
    schema: Mapping[str, Any] = {"$ref": "#/components/schemas/Problem"}
    response: dict[str, Any] = {
        "description": "`code`: " + ", ".join(f"`{code}`" for code in codes),
        "content": {PROBLEM_JSON: {"schema": schema}},
    }
    if status in _RETRY_STATUSES:
        response["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return response


_REF = "#/components/schemas/{model}"
EXTRA_SCHEMAS: tuple[type[BaseModel], ...] = (
    Problem,
    schema.JobJson,
    schema.JobForm,
    schema.BatchJson,
    schema.BatchForm,
    schema.WebhookTestRequest,
    schema.RotateRequest,
    openai_schema.ResponseJson,
    openai_schema.ChatJson,
    openai_schema.FileBatchRequest,
    openai_schema.FileForm,
    upload_schema.CreateUpload,
    upload_schema.CompleteUpload,
    upload_schema.PartForm,
    endpoint_schema.CreateEndpoint,
    endpoint_schema.UpdateEndpoint,
    endpoint_schema.RotateEndpoint,
    endpoint_schema.TestEndpoint,
)


def request_body(*, required: bool = True, **kinds: str) -> dict[str, Any]:
    """Return the `requestBody` that takes the schemas `json` and `form`."""
    media = {"json": JSON, "form": FORM}
    content = {media[kind]: {"schema": {"$ref": _REF.format(model=model)}} for kind, model in kinds.items()}
    return {"required": required, "content": content}


def _header(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


PREFERENCES = [
    _header(
        "Idempotency-Key",
        "1-255 visible ASCII, with or without quotes; the same request under the same key is the same job",
        type="string",
        minLength=1,
        maxLength=255,
        pattern="^[!-~]+$",
    ),
    _header("Prefer", "`wait=N`: answer when the job ends, or after N (at most 60) seconds", type="string"),
    _header("traceparent", "W3C trace context; travels to worker logs and webhook", type="string"),
]
FORM_OR_JSON = {"requestBody": request_body(json="JobJson", form="JobForm"), "parameters": PREFERENCES}
BATCH_FORM_OR_JSON = {
    "requestBody": request_body(json="BatchJson", form="BatchForm"),
    "parameters": PREFERENCES[:1] + PREFERENCES[2:],
}


def _accepted(model: type[BaseModel], what: str) -> dict[int | str, dict[str, Any]]:
    headers = {
        "Location": {"description": f"the {what}", "schema": {"type": "string"}},
        "Retry-After": {"description": "seconds after which to ask again", "schema": {"type": "integer"}},
        "Idempotent-Replayed": {"description": "`true` for a repeated request", "schema": {"type": "string"}},
    }
    applied = {"Preference-Applied": {"description": "what of `Prefer` was applied", "schema": {"type": "string"}}}
    return {
        200: {"model": model, "description": f"the {what}, which has ended", "headers": headers | applied},
        202: {"model": model, "description": f"the {what}, accepted", "headers": headers | applied},
    }


JOB_ACCEPTED = _accepted(JobBody, "job")
BATCH_ACCEPTED = _accepted(BatchBody, "batch")


def install_document(app: FastAPI) -> None:
    """Serve the complete document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            app.openapi_schema = _complete(made)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _webhook(type: str) -> dict[str, Any]:
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    return {
        "summary": f"`{type}`",
        "description": "Sent to the webhook of a job or batch, and to the tenant's endpoints, that want this type.",
        "parameters": [
            _header(name, "see Standard Webhooks 1.0", type="string") | {"required": True} for name in names
        ],
        "requestBody": request_body(json=(OpenAiEvent if is_openai(type) else WebhookEvent).__name__),
        "responses": {"2XX": {"description": "received; anything else is retried, but for 410"}},
    }


def _complete(made: dict[str, Any]) -> dict[str, Any]:
    read: list[tuple[type[BaseModel], JsonSchemaMode]] = [(model, "validation") for model in EXTRA_SCHEMAS]
    sent: list[tuple[type[BaseModel], JsonSchemaMode]] = [
        (WebhookEvent, "serialization"),
        (OpenAiEvent, "serialization"),
    ]
    _, written = models_json_schema([*read, *sent], ref_template=_REF)
    made["webhooks"] = {type: {"post": _webhook(type)} for type in (*EVENT_TYPES, "webhook.test")}
    components = made.setdefault("components", {})
    components.setdefault("schemas", {}).update(written["$defs"])
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "`tq_…`; without any keys, loopback needs none"}
    }
    for path, calls in made["paths"].items():
        for call in calls.values():
            if path.startswith("/v1/"):
                call["security"] = [{"key": []}]
            for status, response in call["responses"].items():
                request_id = {"description": "as sent, or a new one", "schema": {"type": "string"}}
                response.setdefault("headers", {})["X-Request-Id"] = request_id
                if status in ("401", "403"):
                    response["headers"]["WWW-Authenticate"] = {"schema": {"type": "string"}}
    return made
