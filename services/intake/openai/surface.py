"""OpenAI's error envelope, `{"error": {"message", "type", "param", "code"}}`, with tileq's codes.

A value that is refused is 400, as OpenAI has it, where the native surface says 422, and 415 for an image of another
format. An error that a repetition can't mend carries `x-should-retry: false`, which OpenAI's SDKs obey, so that none of
their retries becomes a second job.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum

from fastapi import APIRouter

from services.intake.native import NATIVE, PROBLEM_JSON, problem
from services.intake.rendering import to_json
from services.intake.surface import Surface, route_class
from shared.errors import RequestError, UnsupportedImageType

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_REFUSED_VALUE = 422
#: Statuses that OpenAI's SDKs repeat by themselves, beside those from 500 on.
_SDK_RETRIES = (408, 409)


def error_status(error: RequestError) -> int:
    """Return the HTTP status of `error`."""
    refused = error.status == _REFUSED_VALUE or isinstance(error, UnsupportedImageType)
    return 400 if refused else error.status


def envelope(error: RequestError) -> dict[str, object]:
    """Return the body of `error`."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    said: dict[str, object] = {"message": error.detail, "type": kind, "param": error.field, "code": error.code}
    return {"error": said | {"retryable": error.retryable}}


def _error_headers(error: RequestError) -> dict[str, str]:
    repeats = error.status in _SDK_RETRIES or error.status >= 500
    return {"x-should-retry": "false"} if repeats and not error.retryable else {}


OPENAI = Surface(
    "application/json",
    lambda error, _: to_json(envelope(error)),
    NATIVE.headers,
    error_status,
    _error_headers,
)


def _both(error: RequestError, request_id: str) -> bytes:
    return to_json(json.loads(problem(error, request_id)) | envelope(error))


#: Paths that both APIs have, and those that neither has: problem+json that is OpenAI's envelope as well.
COMMON = Surface(PROBLEM_JSON, _both, NATIVE.headers)


def openai_router(*tags: str) -> APIRouter:
    """Return a router of OpenAI's surface."""
    listed: Sequence[str | Enum] = tags
    return APIRouter(tags=list(listed), route_class=route_class(OPENAI))


@contextmanager
def params_named(names: Mapping[str, str]) -> Iterator[list[str]]:
    """Let errors of the block name OpenAI's parameters: `names` maps beginnings of tileq's fields to them.

    The block appends the parameter of each image to the list that it gets.
    """
    images: list[str] = []
    try:
        yield images
    except RequestError as error:
        field = error.field or ""
        found = next((name for name in names if field == name or field.startswith(name + ".")), None)
        if error.image is not None and error.image < len(images):
            error.field = images[error.image]
        elif found is not None:
            error.field = names[found] + field.removeprefix(found)
        error.args = (_renamed(error.detail, names),)
        raise


def _renamed(detail: str, names: Mapping[str, str]) -> str:
    for name, param in names.items():
        detail = detail.replace(f"`{name}`", f"`{param}`")
    return detail
