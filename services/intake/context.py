"""What the routes need, built once by the factory and handed in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from services.intake.auth import Authenticator
from services.intake.clients.background import TaskSet
from services.intake.clients.changes import Changes
from services.intake.clients.delta_reader import DeltaReader
from services.intake.clients.hints import HintPublisher
from services.intake.clients.model_registry import ModelRegistry
from services.intake.clients.readiness import Readiness
from services.intake.clients.storage import Storage
from services.intake.clients.webhook_endpoints import WebhookEndpoints
from services.intake.clients.webhook_urls import WebhookUrlPolicy
from services.intake.event_stream import EventStreams
from services.intake.principal import Principal
from services.intake.queries import JobQueries
from services.intake.rate_limits import RateLimiter
from services.intake.submission.commit import Commit
from services.intake.submission.file_batches import FileBatches
from services.intake.submission.file_store import FileStore
from services.intake.submission.pending_uploads import PendingUploads
from services.intake.submission.prepare import Preparation
from services.intake.submission.service import Submissions
from shared.errors import InvalidField
from shared.keys import Scope
from shared.limits import NO_LIMITS
from shared.settings.roles import IntakeSettings
from shared.store.client import AsyncStore

#: Calls with query parameters that share a prefix and are otherwise free.
QUERY_PREFIXES = {("GET", "/v1/jobs"): "metadata."}


@dataclass(frozen=True)
class AppContext:
    """The objects of one running service."""

    settings: IntakeSettings
    store: AsyncStore
    storage: Storage
    authenticator: Authenticator
    rate_limiter: RateLimiter
    queries: JobQueries
    submissions: Submissions
    preparation: Preparation
    commit: Commit
    file_batches: FileBatches
    streams: EventStreams
    models: ModelRegistry
    webhook_urls: WebhookUrlPolicy
    webhook_endpoints: WebhookEndpoints
    changes: Changes
    deltas: DeltaReader
    publisher: HintPublisher
    readiness: Readiness
    files: FileStore
    uploads: PendingUploads
    background: TaskSet


async def _context(request: Request) -> AppContext:
    found: AppContext = request.app.state.context
    return found


def requires(scope: Scope, *, stores_file: bool = False) -> Callable[[Request], Awaitable[Principal]]:
    """Return the dependency that authenticates a request and refuses a key without `scope`.

    A call that submits is held to the limits of submissions, one that only `stores_file` to that of bytes.
    """

    async def authenticate(request: Request) -> Principal:
        context: AppContext = request.app.state.context
        principal = await context.authenticator.authenticate(request)
        request.state.principal = principal
        held_to = principal.limits.tenant if scope is Scope.SUBMIT else NO_LIMITS
        if stores_file:
            held_to = replace(held_to, queued=0, tokens=0)
        await context.rate_limiter.admit(request, principal, submission=held_to)
        principal.require(scope)
        _refuse_unknown_query(request)
        return principal

    authenticate.scope = scope  # type: ignore[attr-defined]  # for the test that every route names one
    return authenticate


def _refuse_unknown_query(request: Request) -> None:
    """Raise `InvalidField` for a query parameter that the route does not know, and would ignore."""
    if not request.scope["query_string"]:
        return
    route: APIRoute = request.scope["route"]
    known = [parameter.alias for parameter in route.dependant.query_params]
    prefix = QUERY_PREFIXES.get((request.method, route.path))
    for name in request.query_params:
        if name in known and len(request.query_params.getlist(name)) > 1:
            raise InvalidField(f"the query parameter `{name}` was sent more than once; send it once", field=name)
        if name not in known and not (prefix and name.startswith(prefix) and name != prefix):
            listed = ", ".join([*known, *([f"{prefix}KEY"] if prefix else [])])
            hint = f"use {listed}" if listed else "this call has none"
            raise InvalidField(f"unknown query parameter {name[:80]!r}; {hint}", field=name)


Context = Annotated[AppContext, Depends(_context)]
Reader = Annotated[Principal, Depends(requires(Scope.READ))]
Submitter = Annotated[Principal, Depends(requires(Scope.SUBMIT))]
Uploader = Annotated[Principal, Depends(requires(Scope.SUBMIT, stores_file=True))]
Canceller = Annotated[Principal, Depends(requires(Scope.CANCEL))]
Manager = Annotated[Principal, Depends(requires(Scope.MANAGE))]
