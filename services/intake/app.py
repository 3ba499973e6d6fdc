"""The service put together: one factory, everything handed in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from redis.asyncio import Redis

from services.intake.auth import Doorkeeper
from services.intake.clients.background import Chores
from services.intake.clients.changes import LOOK_AGAIN, Changes
from services.intake.clients.hints import HintsLike, Post
from services.intake.clients.model_registry import Catalogue
from services.intake.clients.readiness import Readiness
from services.intake.clients.storage import Storage
from services.intake.clients.webhook_urls import Callbacks
from services.intake.context import House
from services.intake.desk import Desk
from services.intake.errors import refuse_all_alike
from services.intake.event_stream import Streams
from services.intake.middleware import Reception
from services.intake.openapi import document
from services.intake.routes import batches, health, images, jobs, models, webhooks
from services.intake.submission import image_headers
from services.intake.submission.prompt_length import Tokens
from shared.images import ImageLimits
from shared.objects import Objects
from shared.settings import Settings
from shared.store import AsyncStore


def make_house(
    settings: Settings,
    store: AsyncStore,
    objects: Objects,
    hints: HintsLike,
    *,
    events: "Redis | None" = None,
    look_again: float = LOOK_AGAIN,
) -> House:
    """Return what the routes need; `events` is the client of the deltas where it is another than the store's."""
    desk, storage = Desk(store, settings.redis_timeout), Storage(objects)
    door = Doorkeeper(desk, settings)
    changes = Changes(store.client, store.prefix, look_again)
    return House(
        settings=settings,
        desk=desk,
        storage=storage,
        door=door,
        callbacks=Callbacks(door, settings),
        catalogue=Catalogue(desk, settings),
        tokens=Tokens(storage, settings),
        changes=changes,
        streams=Streams(desk, storage, changes, events or store.client, most=settings.max_streams),
        post=Post(hints),
        readiness=Readiness(desk, storage, settings),
        chores=Chores(),
    )


def make_app(house: House) -> FastAPI:
    """Return the ASGI application."""
    settings = house.settings
    image_headers.arm(ImageLimits.of(settings))
    app = FastAPI(
        title="tileq",
        version=version("tileq"),
        description="Images and a question in, an answer out: by webhook, by polling, or as it is written.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.house = house
    for room in (jobs, images, batches, webhooks, models, health):
        app.router.routes.extend(room.router.routes)  # flat, so that a 405 can name all methods of a path
    refuse_all_alike(app)
    document(app)
    app.add_middleware(Reception)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    house: House = app.state.house
    house.post.start()
    background = [asyncio.create_task(house.changes.run()), asyncio.create_task(house.readiness.run())]
    try:
        yield
    finally:
        house.changes.close()
        for task in background:
            task.cancel()
        await asyncio.wait(background, timeout=2)
        await house.chores.end()
        await asyncio.to_thread(house.post.close)
        house.storage.close()
