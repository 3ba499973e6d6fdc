"""The OpenAPI document where FastAPI can't read it from a signature: bodies read as they come, problems, headers."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.intake.schemas import requests as schema
from services.intake.schemas.responses import BatchBody, JobBody, Problem
from services.intake.submission.body import FORM, JSON

_REF = "#/components/schemas/{model}"
_WRITTEN: tuple[type[BaseModel], ...] = (
    Problem,
    schema.JobJson,
    schema.JobForm,
    schema.BatchJson,
    schema.BatchForm,
    schema.WebhookTestRequest,
    schema.RotateRequest,
)


def body(*, required: bool = True, **kinds: str) -> dict[str, Any]:
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
    _header(
        "Prefer", "`wait=N`: answer at the end of the job, after N (at most 60) seconds at the latest", type="string"
    ),
    _header("traceparent", "W3C trace context; travels to worker logs and webhook", type="string"),
]
FORM_OR_JSON = {"requestBody": body(json="JobJson", form="JobForm"), "parameters": PREFERENCES}
BATCH_FORM_OR_JSON = {
    "requestBody": body(json="BatchJson", form="BatchForm"),
    "parameters": PREFERENCES[:1] + PREFERENCES[2:],
}


def _accepted(model: type[BaseModel], what: str) -> dict[int | str, dict[str, Any]]:
    headers = {
        "Location": {"description": f"the {what}", "schema": {"type": "string"}},
        "Retry-After": {"description": "seconds after which to ask again", "schema": {"type": "integer"}},
        "Idempotent-Replayed": {"description": "`true` for a repeated request", "schema": {"type": "string"}},
    }
    applied = {"Preference-Applied": {"description": "what of `Prefer` was heeded", "schema": {"type": "string"}}}
    return {
        200: {"model": model, "description": f"the {what}, ended already", "headers": headers | applied},
        202: {"model": model, "description": f"the {what}, taken in", "headers": headers | applied},
    }


ACCEPTED = _accepted(JobBody, "job")
BATCH_ACCEPTED = _accepted(BatchBody, "batch")


def document(app: FastAPI) -> None:
    """Make the document of `app` complete."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _complete(made: dict[str, Any]) -> dict[str, Any]:
    _, written = models_json_schema([(model, "validation") for model in _WRITTEN], ref_template=_REF)
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
                request_id = {"description": "as sent, or made", "schema": {"type": "string"}}
                response.setdefault("headers", {})["X-Request-Id"] = request_id
                if status == "401":
                    response["headers"]["WWW-Authenticate"] = {"schema": {"type": "string"}}
    return made
