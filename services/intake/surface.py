"""A surface: routes that share an error format and the headers of every answer.

A router belongs to a surface by the class of its routes: `APIRouter(route_class=route_class(NATIVE))`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.dependencies.models import Dependant
from fastapi.dependencies.utils import request_params_to_args
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from shared.errors import RequestError


@dataclass(frozen=True)
class Surface:
    """How one group of routes answers."""

    error_media_type: str
    error_body: Callable[[RequestError, str], bytes]  #: (error, request id) → body
    headers: tuple[tuple[bytes, bytes], ...]  #: of every answer, errors included
    error_status: Callable[[RequestError], int] = lambda error: error.status
    error_headers: Callable[[RequestError], dict[str, str]] = lambda _: {}


_CHOSEN = "tileq.surface"


class SurfaceRoute(APIRoute):
    """A route that knows its surface.

    FastAPI reads the signature of its endpoint and documents it; a request is served here, without FastAPI's stacks of
    contexts and caches of dependencies, which cost more than a read of a job. So an endpoint returns a `Response`, each
    dependency takes the request alone, and a body is read by the endpoint.
    """

    surface: Surface

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if problem := _unsupported(self):
            raise TypeError(f"{endpoint.__qualname__} has {problem}, which the routes of a surface don't serve")
        self.app = self._serve
        self._query_defaults = {field.name: field.default for field in self.dependant.query_params}
        fields = [field.field_info for field in self.dependant.path_params]
        self._path_is_text = all(info.annotation is str and not info.metadata for info in fields)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self.endpoint(**await self._arguments(request))
        await response(scope, receive, send)

    async def _arguments(self, request: Request) -> dict[str, Any]:
        """Return the arguments of the endpoint, those of dependencies first, as FastAPI does.

        Raises what a dependency raises, or `RequestValidationError`.
        """
        of = self.dependant
        values: dict[str, Any] = {one.name: await one.call(request) for one in of.dependencies}  # type: ignore[misc]
        if of.request_param_name:
            values[of.request_param_name] = request
        path, query = request.path_params, request.scope["query_string"]
        read = [(path, []) if self._path_is_text else request_params_to_args(of.path_params, path)]
        if query:
            read.append(request_params_to_args(of.query_params, request.query_params))
        else:
            values |= self._query_defaults
        if of.header_params:
            read.append(request_params_to_args(of.header_params, request.headers))
        if errors := [error for _, some in read for error in some]:
            raise RequestValidationError(errors)
        for found, _ in read:
            values |= found
        return values


def _unsupported(route: APIRoute) -> str:
    """Return what the signature of the endpoint of `route` has that `SurfaceRoute` does not serve, or ""."""
    of = route.dependant
    if not inspect.iscoroutinefunction(route.endpoint):
        return "no `async def`"
    if of.body_params or of.cookie_params:
        return "a body or a cookie as a parameter"
    if any(field.field_info.is_required() for field in of.query_params):
        return "a required query parameter"
    if any(_is_nested(one) for one in of.dependencies):
        return "a dependency that takes more than the request"
    if of.response_param_name or of.background_tasks_param_name or route.response_field:
        return "a response that FastAPI makes"
    return ""


def _is_nested(dependency: Dependant) -> bool:
    own = (dependency.path_params, dependency.query_params, dependency.header_params, dependency.dependencies)
    return any(own) or dependency.request_param_name is None


def route_class(surface: Surface) -> type[SurfaceRoute]:
    """Return the class of the routes of `surface`."""
    return type("Route", (SurfaceRoute,), {"surface": surface})


def surface_of(scope: Scope, default: Surface) -> Surface:
    """Return the surface of the route that a request matched, or `default` where it matched none."""
    found = scope.get(_CHOSEN) or getattr(scope.get("route"), "surface", default)
    return found if isinstance(found, Surface) else default


def choose_surface(scope: Scope, surface: Surface) -> None:
    """Answer the rest of a request as `surface` does: its body shows what its path does not."""
    scope[_CHOSEN] = surface
