"""Every error as an answer in the format of its surface, raised by a route, FastAPI, the router, or a bug."""

import math
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from services.intake.rate_limits import show_limits
from services.intake.schemas.validation import invalid_fields
from services.intake.surface import Surface, surface_of
from shared.errors import (
    InsufficientScope,
    InvalidKey,
    LimitPassed,
    Malformed,
    MethodNotAllowed,
    MissingKey,
    NotFound,
    RequestError,
)


class Unexpected(RequestError):
    """An unexpected error occurred; the log of this service has it under this request id."""

    status, code, title, retryable = 500, "internal", "Internal error", True


def error_response(
    error: RequestError, request: Request, default: Surface, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer for `error`, in the format of the surface that `request` belongs to."""
    request.state.code = error.code
    surface = surface_of(request.scope, default)
    sent = surface.error_headers(error) | dict(headers or {})
    if error.retry_after is not None:
        sent["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, MissingKey | InvalidKey):
        sent["WWW-Authenticate"] = "Bearer"
    if isinstance(error, LimitPassed) and error.limit is not None:
        show_limits(request, [error.limit])
    if isinstance(error, InsufficientScope):  # RFC 6750, 3.1
        sent["WWW-Authenticate"] = f'Bearer error="insufficient_scope", scope="{error.scope}"'
    body = surface.error_body(error, request.state.request_id)
    return Response(body, surface.error_status(error), sent, media_type=surface.error_media_type)


def install_handlers(app: FastAPI, default: Surface) -> None:
    """Register the handlers of `app`; paths that match no route answer in the format of `default`."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)  # noqa: S101  # it is registered for that
        return error_response(error, request, default)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return error_response(invalid_fields(error.errors(), skip=1), request, default)

    async def unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        if error.status_code == MethodNotAllowed.status:
            allowed = methods_of(app, request)
            detail = f"{request.method} is not allowed for this path; allowed methods: {allowed}"
            return error_response(MethodNotAllowed(detail), request, default, {"Allow": allowed})
        if error.status_code == NotFound.status:
            listed = f"; GET {app.openapi_url} lists them" if app.openapi_url else ""
            detail = f"this service has no such path{listed}"
            return error_response(NotFound(detail), request, default)
        return error_response(Malformed(str(error.detail)), request, default)

    async def disconnected(request: Request, error: Exception) -> Response:
        del error  # the client closed the connection within its body, so this answer is not read
        return error_response(Malformed("the connection ended before the request body did"), request, default)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unrouted)
    app.add_exception_handler(ClientDisconnect, disconnected)


def methods_of(app: FastAPI, request: Request) -> str:
    """Return the methods that the path of `request` allows, as the `Allow` header lists them."""
    found: set[str] = set()
    for route in app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))
