"""Routes of another surface, with its own errors and headers, beside the native ones."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Request, Response
from starlette.testclient import TestClient

from services.intake.errors import install_handlers
from services.intake.middleware import RequestMiddleware
from services.intake.native import NATIVE, native_router
from services.intake.surface import Surface, route_class
from shared.errors import NotFound, RequestError


def body(error: RequestError, request_id: str) -> bytes:
    return json.dumps({"error": {"code": error.code, "message": error.detail, "id": request_id}}).encode()


OTHER = Surface("application/json", body, ((b"x-frame-options", b"SAMEORIGIN"),))


def served() -> TestClient:
    app = FastAPI()
    native, other = native_router("native"), APIRouter(route_class=route_class(OTHER))

    @native.get("/native")
    async def refuse_natively() -> None:
        raise NotFound("gone")

    @other.get("/other")
    async def refuse(number: int = 0) -> None:
        raise NotFound("gone") if number == 0 else ZeroDivisionError

    app.router.routes.extend([*native.routes, *other.routes])
    install_handlers(app, NATIVE)
    app.add_middleware(RequestMiddleware, default=NATIVE)
    return TestClient(app, raise_server_exceptions=False)


def test_each_surface_has_its_own_errors_and_headers() -> None:
    http = served()
    native, other = http.get("/native"), http.get("/other")
    assert (native.headers["content-type"], native.json()["code"]) == ("application/problem+json", "not_found")
    assert (other.headers["content-type"], other.json()["error"]["message"]) == ("application/json", "gone")
    assert "content-security-policy" in native.headers
    assert "content-security-policy" not in other.headers
    assert other.headers["x-frame-options"] == "SAMEORIGIN"


def test_so_do_invalid_queries_wrong_methods_and_unexpected_errors() -> None:
    http = served()
    assert http.get("/other?number=x").json()["error"]["code"] == "invalid_field"
    assert http.post("/other").json()["error"]["code"] == "method_not_allowed"
    assert http.get("/other?number=1").json()["error"]["code"] == "internal"


async def of_another(request: Request, number: Annotated[int, Depends(lambda: 1)]) -> Response:
    return Response(str(number))


async def of_a_query(request: Request, number: int) -> Response:
    return Response(str(number))


async def of_a_body(request: Request, fields: Annotated[dict[str, str], Body()]) -> Response:
    return Response(str(fields))


def of_a_thread(request: Request) -> Response:
    return Response()


@pytest.mark.parametrize("endpoint", [of_another, of_a_query, of_a_body, of_a_thread])
def test_an_endpoint_whose_signature_the_routes_do_not_serve_is_refused(endpoint: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=f"{endpoint.__name__} has"):
        native_router("native").add_api_route("/x", endpoint)


def test_a_path_that_no_route_has_is_answered_natively() -> None:
    assert served().get("/nowhere").json()["code"] == "not_found"
