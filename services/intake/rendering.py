"""JSON answers: every body that a client receives becomes bytes here."""

from collections.abc import Mapping

from fastapi.responses import Response
from pydantic_core import to_json as _serialize

from shared.views import Body


def to_json(body: Body | Mapping[str, object]) -> bytes:
    """Return `body` as compact JSON in UTF-8."""
    return _serialize(body, inf_nan_mode="null")


def json_response(
    body: Body | Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return `body` as an answer of type `application/json`."""
    return Response(to_json(body), status, headers, media_type="application/json")
