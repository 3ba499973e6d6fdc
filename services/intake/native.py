"""The native surface (`api.md`): problem+json errors (RFC 9457), and headers that let no browser run an answer."""

from collections.abc import Sequence
from enum import Enum

from fastapi import APIRouter

from services.intake.rendering import to_json
from services.intake.schemas.responses import Problem
from services.intake.surface import Surface, route_class
from shared.errors import RequestError

PROBLEM_JSON = "application/problem+json"


def problem(error: RequestError, request_id: str) -> bytes:
    """Return `error` as problem+json; members that do not apply are left out."""
    body = Problem(
        type=f"urn:tileq:problem:{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.code,
        retryable=error.retryable,
        request_id=request_id,
        image=error.image,
        field=error.field,
        errors=None if error.errors is None else [dict(one) for one in error.errors],
    )
    return to_json({name: value for name, value in body if value is not None})


NATIVE = Surface(
    PROBLEM_JSON,
    problem,
    (
        (b"x-content-type-options", b"nosniff"),
        (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ),
)


def native_router(*tags: str) -> APIRouter:
    """Return a router of the native surface."""
    listed: Sequence[str | Enum] = tags
    return APIRouter(tags=list(listed), route_class=route_class(NATIVE))
