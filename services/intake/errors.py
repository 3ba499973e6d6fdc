"""Every refusal as `application/problem+json` (RFC 9457), whoever refuses: a route, FastAPI, the router, or a bug."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from services.intake.schemas.responses import dump
from shared.errors import InvalidField, InvalidKey, Malformed, MethodNotAllowed, MissingKey, NotFound, RequestError

MEDIA_TYPE = "application/problem+json"


class Unexpected(RequestError):
    """Something went wrong that nobody thought of; the log of this service has it under this request id."""

    status, code, title, retryable = 500, "internal", "Internal error", True


def problem(error: RequestError, request_id: str) -> dict[str, Any]:
    """Return the body for `error`."""
    body: dict[str, Any] = {
        "type": f"urn:tileq:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "request_id": request_id,
    }
    for name in ("image", "field", "errors"):
        if (value := getattr(error, name)) is not None:
            body[name] = value
    return body


def refusal(error: RequestError, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer for `error`."""
    request.state.code = error.code
    told = dict(headers or {})
    if error.retry_after is not None:
        told["Retry-After"] = str(max(1, round(error.retry_after)))
    if isinstance(error, MissingKey | InvalidKey):
        told["WWW-Authenticate"] = "Bearer"
    body = problem(error, request.state.request_id)
    return Response(dump(body), error.status, told, media_type=MEDIA_TYPE)


def refuse_all_alike(app: FastAPI) -> None:
    """Register the handlers."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestError)  # noqa: S101  # it is registered for that
        return refusal(error, request)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        return refusal(of_validation(error.errors(), skip=1), request)

    async def unrouted(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101
        if error.status_code == MethodNotAllowed.status:
            allowed = methods_of(app, request)
            detail = f"{request.method} is not for this path; it knows {allowed}"
            return refusal(MethodNotAllowed(detail), request, {"Allow": allowed})
        if error.status_code == NotFound.status:
            return refusal(NotFound("this service has no such path; GET /openapi.json lists them"), request)
        return refusal(Malformed(str(error.detail)), request)

    async def gone(request: Request, error: Exception) -> Response:
        del error  # the client hung up in the middle of its body; nobody reads this
        return refusal(Malformed("the connection ended before the request body did"), request)

    app.add_exception_handler(RequestError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unrouted)
    app.add_exception_handler(ClientDisconnect, gone)


def of_validation(found: Sequence[Any], skip: int = 0) -> InvalidField:
    """Return one refusal for what pydantic found; `skip` leading parts of each place are not the client's business."""
    errors = [{"field": _place(one["loc"][skip:]), "detail": _told(one)} for one in found[:20]]
    first = errors[0]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    place = f"`{first['field']}`: " if first["field"] else ""
    return InvalidField(f"{place}{first['detail']}{more}", field=first["field"] or None, errors=errors)


def methods_of(app: FastAPI, request: Request) -> str:
    """Return the methods that the path of `request` knows, as the `Allow` header has them."""
    found: set[str] = set()
    for route in app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return ", ".join(sorted(found))


def _place(parts: Sequence[str | int]) -> str:
    if parts[:2] in (("tiles", "number"), ("tiles", "list")):  # pydantic's names for the two ways to write it
        parts = ("tiles", *parts[2:])
    return ".".join(map(str, parts))


def _told(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
