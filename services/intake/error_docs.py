"""What a call may answer with, for the OpenAPI document: bodies, and refusals by their codes."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from services.intake.errors import MEDIA_TYPE, Unexpected
from shared import errors
from shared.errors import RequestError

#: What any call that asks for a tenant may answer.
ALWAYS: tuple[type[RequestError], ...] = (
    errors.MissingKey,
    errors.InvalidKey,
    errors.QueueUnavailable,
    Unexpected,
)
#: What judging a question may come to.
JUDGING: tuple[type[RequestError], ...] = (
    errors.Malformed,
    errors.BodyTooLarge,
    errors.ImageTooLarge,
    errors.UnsupportedMediaType,
    errors.UnsupportedImageType,
    errors.InvalidField,
    errors.UnknownModel,
    errors.UndecodableImage,
    errors.ImageTooManyPixels,
    errors.TooManyImages,
    errors.TooManyTiles,
    errors.ImageCountMismatch,
    errors.PromptTooLong,
    errors.UnknownParent,
    errors.WebhookRefused,
    errors.IdempotencyMismatch,
    errors.IdempotencyInProgress,
    errors.Overloaded,
    errors.ResultLost,
    errors.StorageUnavailable,
)
_TIMED = (429, 503)

#: One server-sent event.
EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": ["state", "delta", "reset", "end"]},
        "id": {"type": "string", "description": "for `Last-Event-ID`"},
        "data": {"type": "string", "description": 'JSON: a job, or `{"text": "…"}`, or `{}`'},
        "retry": {"type": "integer"},
    },
}
TEXT = {"type": "string"}

Responses = dict[int | str, dict[str, Any]]


def shows(model: type[BaseModel], status: int = 200) -> Responses:
    """Return the `responses` of a route that answers with `model`."""
    return {status: {"model": model}}


def streams(media_type: str, description: str, schema: Mapping[str, Any]) -> Responses:
    """Return the `responses` of a route that answers with a stream of its own kind."""
    return {200: {"description": description, "content": {media_type: {"schema": schema}}}}


def refuses(*kinds: type[RequestError]) -> Responses:
    """Return the `responses` of a route that may refuse by `kinds`, beside what every route does."""
    by_status: dict[int | str, list[str]] = {}
    for kind in (*kinds, *ALWAYS):
        codes = by_status.setdefault(kind.status, [])
        if kind.code not in codes:
            codes.append(kind.code)
    return {status: _response(status, codes) for status, codes in sorted(by_status.items())}


def _response(status: int | str, codes: list[str]) -> dict[str, Any]:
    schema: Mapping[str, Any] = {"$ref": "#/components/schemas/Problem"}
    said: dict[str, Any] = {
        "description": "`code`: " + ", ".join(f"`{code}`" for code in codes),
        "content": {MEDIA_TYPE: {"schema": schema}},
    }
    if status in _TIMED:
        said["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return said
