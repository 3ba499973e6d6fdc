"""The OpenAPI document of OpenAI's surface."""

from typing import Any

from pydantic import Field

from services.intake.openai.surface import error_status
from services.intake.openapi import COMMON_ERRORS, PREFERENCES, Responses, request_body
from shared.errors import RequestError
from shared.views import Body

RETRY_STATUSES = (429, 503)
#: One server-sent event.
_EVENT = {
    "type": "object",
    "description": "where `stream` is true",
    "properties": {
        "event": {"type": "string", "description": "of a response: the `type` of `data`; of a completion: none"},
        "data": {"type": "string", "description": "JSON as OpenAI's SDKs read it; `[DONE]` ends a completion"},
    },
}
SSE = {"text/event-stream": {"schema": _EVENT}}


class OpenAiError(Body):
    """Why a request was refused; `code` is that of the native surface."""

    message: str
    type: str
    param: str | None
    code: str
    retryable: bool


class ErrorEnvelope(Body):
    """An error as OpenAI's SDKs read it."""

    error: OpenAiError = Field()


def openai_errors(*kinds: type[RequestError]) -> Responses:
    """Return the `responses` of a route that raises `kinds`, beside the common errors."""
    by_status: dict[int, list[str]] = {}
    for kind in (*kinds, *COMMON_ERRORS):
        codes = by_status.setdefault(error_status(kind), [])  # type: ignore[arg-type]  # it reads the class's status
        if kind.code not in codes:
            codes.append(kind.code)
    return {status: _refusal(status, codes) for status, codes in sorted(by_status.items())}


def asks(json: str) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that takes the schema `json`."""
    return {"requestBody": request_body(json=json), "parameters": [PREFERENCES[0], PREFERENCES[2]]}


def answers(model: type[Body], *, streams: bool = False) -> Responses:
    """Return the `responses` of a route that answers with `model`, or `streams` it."""
    return {200: {"model": model} | ({"content": SSE} if streams else {})}


def _refusal(status: int, codes: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "model": ErrorEnvelope,
        "description": "`error.code`: " + ", ".join(f"`{code}`" for code in codes),
    }
    if status in RETRY_STATUSES:
        found["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return found
