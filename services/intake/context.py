"""What the routes need, built once by the factory and handed in."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.intake.auth import Authenticator
from services.intake.clients.background import TaskSet
from services.intake.clients.changes import Changes
from services.intake.clients.delta_reader import DeltaReader
from services.intake.clients.hints import HintPublisher
from services.intake.clients.model_registry import ModelRegistry
from services.intake.clients.readiness import Readiness
from services.intake.clients.storage import Storage
from services.intake.clients.webhook_urls import WebhookUrlPolicy
from services.intake.event_stream import EventStreams
from services.intake.principal import Principal
from services.intake.queries import JobQueries
from services.intake.submission.service import Submissions
from shared.settings import IntakeSettings
from shared.store.client import AsyncStore


@dataclass(frozen=True)
class AppContext:
    """The objects of one running service."""

    settings: IntakeSettings
    store: AsyncStore
    storage: Storage
    authenticator: Authenticator
    queries: JobQueries
    submissions: Submissions
    streams: EventStreams
    models: ModelRegistry
    webhook_urls: WebhookUrlPolicy
    changes: Changes
    deltas: DeltaReader
    publisher: HintPublisher
    readiness: Readiness
    background: TaskSet


async def _context(request: Request) -> AppContext:
    found: AppContext = request.app.state.context
    return found


async def _principal(request: Request) -> Principal:
    context: AppContext = request.app.state.context
    principal = await context.authenticator.authenticate(request)
    request.state.tenant = principal.tenant
    return principal


Context = Annotated[AppContext, Depends(_context)]
Caller = Annotated[Principal, Depends(_principal)]
