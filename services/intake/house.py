"""What every route needs, made once by the factory and handed in; nothing here is global."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.intake.auth import Doorkeeper
from services.intake.callbacks import Callbacks
from services.intake.catalogue import Catalogue
from services.intake.changes import Changes
from services.intake.chores import Chores
from services.intake.desk import Desk
from services.intake.post import Post
from services.intake.readiness import Readiness
from services.intake.storage import Storage
from services.intake.stream import Streams
from services.intake.tokens import Tokens
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
