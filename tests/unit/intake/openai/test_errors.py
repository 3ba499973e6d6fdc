"""Every error that OpenAI's surface may answer with: its envelope, its status, and the class that the SDK raises."""

from collections.abc import Iterator

import openai
import pytest
from fastapi import FastAPI
from fastapi.responses import Response
from openai import OpenAI
from starlette.testclient import TestClient

from services.intake.errors import Unexpected, install_handlers
from services.intake.middleware import RequestMiddleware
from services.intake.native import NATIVE
from services.intake.openai.surface import openai_router
from shared.errors import AnswerFailed, RequestError
from tests.unit.intake.app_fixture import App

#: HTTP status → the SDK's class and `error.type`.
OF_STATUS: dict[int, tuple[type[openai.APIStatusError], str]] = {
    400: (openai.BadRequestError, "invalid_request_error"),
    401: (openai.AuthenticationError, "authentication_error"),
    403: (openai.PermissionDeniedError, "permission_error"),
    404: (openai.NotFoundError, "invalid_request_error"),
    405: (openai.APIStatusError, "invalid_request_error"),
    408: (openai.APIStatusError, "invalid_request_error"),
    409: (openai.ConflictError, "invalid_request_error"),
    410: (openai.APIStatusError, "invalid_request_error"),
    413: (openai.APIStatusError, "invalid_request_error"),
    415: (openai.APIStatusError, "invalid_request_error"),
    429: (openai.RateLimitError, "rate_limit_error"),
    431: (openai.APIStatusError, "invalid_request_error"),
    500: (openai.InternalServerError, "server_error"),
    503: (openai.InternalServerError, "server_error"),
    504: (openai.InternalServerError, "server_error"),
}


def status_of(error: RequestError) -> int:
    """The status on OpenAI's surface, which differs for a value that is refused, an image included."""
    return 400 if error.status == 422 or error.code == "unsupported_image_type" else error.status


def kinds(root: type[RequestError] = RequestError) -> Iterator[type[RequestError]]:
    """Every kind of error that a client may hear."""
    for kind in root.__subclasses__():
        if kind.code != RequestError.code or kind.__name__ == "Malformed":
            yield kind
        yield from kinds(kind)


KINDS: dict[str, type[RequestError]] = {
    kind.__name__: kind for kind in sorted((*kinds(), Unexpected), key=lambda kind: kind.__name__)
}


def made(name: str) -> RequestError:
    """Return an error of a kind, about the parameter `input`."""
    if name == AnswerFailed.__name__:
        return AnswerFailed("undecodable_image", "it can't be decoded")
    error = KINDS[name]()
    error.field = "input"
    return error


@pytest.fixture(scope="module")
def raising() -> Iterator[OpenAI]:
    """The SDK against a service whose calls raise the kind of error that they name."""
    app, router = FastAPI(), openai_router("errors")

    @router.get("/v1/{name}")
    async def fail(name: str) -> Response:
        raise made(name)

    app.router.routes.extend(router.routes)
    install_handlers(app, NATIVE)
    app.add_middleware(RequestMiddleware, default=NATIVE)
    with TestClient(app) as http:
        yield OpenAI(base_url="http://testserver/v1", api_key="EMPTY", http_client=http, max_retries=0)


@pytest.mark.parametrize("name", KINDS)
def test_the_sdk_raises_its_own_class_for_every_error(raising: OpenAI, name: str) -> None:
    error = made(name)
    status = status_of(error)
    kind, type_ = OF_STATUS[status]
    with pytest.raises(openai.APIStatusError) as caught:
        raising.get(f"/{name}", cast_to=object)
    assert type(caught.value) is kind
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, error.code, type_)
    assert caught.value.body == {
        "message": error.detail,
        "type": type_,
        "param": error.field,
        "code": error.code,
        "retryable": error.retryable,
    }
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/v1/responses/resp_0", "not_found"),
        ("PUT", "/v1/responses", "method_not_allowed"),
        ("POST", "/v1/responses", "unsupported_media_type"),
        ("GET", "/v1/files?limit=none", "invalid_field"),
        ("GET", "/v1/models/none", "not_found"),
        ("POST", "/v1/embeddings", "not_found"),
    ],
)
def test_what_is_raised_before_a_route_runs_has_the_envelope_too(
    intake: App, method: str, path: str, code: str
) -> None:
    answer = intake.http.request(method, path)
    assert answer.json()["error"]["code"] == code
    assert answer.headers["x-request-id"]
