"""A surface: routes that share an error format and the headers of every answer.

A router belongs to a surface by the class of its routes: `APIRouter(route_class=route_class(NATIVE))`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi.routing import APIRoute
from starlette.types import Scope

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
    """A route that knows its surface."""

    surface: Surface


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
