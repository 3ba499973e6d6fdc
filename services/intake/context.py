"""What every route needs, made once by the factory and handed in; nothing here is global."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.intake.auth import Doorkeeper
from services.intake.clients.background import Chores
from services.intake.clients.changes import Changes
from services.intake.clients.hints import Post
from services.intake.clients.model_registry import Catalogue
from services.intake.clients.readiness import Readiness
from services.intake.clients.storage import Storage
from services.intake.clients.webhook_urls import Callbacks
from services.intake.desk import Desk
from services.intake.event_stream import Streams
from services.intake.submission.prompt_length import Tokens
from shared.settings import Settings


@dataclass(frozen=True)
class House:
    """Everything a request may ask."""

    settings: Settings
    desk: Desk
    storage: Storage
    door: Doorkeeper
    callbacks: Callbacks
    catalogue: Catalogue
    tokens: Tokens
    changes: Changes
    streams: Streams
    post: Post
    readiness: Readiness
    chores: Chores


async def _house(request: Request) -> House:
    found: House = request.app.state.house
    return found


async def _tenant(request: Request) -> str:
    house: House = request.app.state.house
    tenant = await house.door.admit(request)
    request.state.tenant = tenant
    return tenant


Here = Annotated[House, Depends(_house)]
Tenant = Annotated[str, Depends(_tenant)]
