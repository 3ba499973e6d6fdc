"""The service put together: one factory, everything handed in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from redis.asyncio import Redis

from services.intake import batches, deliveries, health, images, jobs, models, pictures
from services.intake.auth import Doorkeeper
from services.intake.callbacks import Callbacks
from services.intake.catalogue import Catalogue
from services.intake.changes import LOOK_AGAIN, Changes
from services.intake.chores import Chores
from services.intake.desk import Desk
from services.intake.documents import document
from services.intake.house import House
from services.intake.post import HintsLike, Post
from services.intake.problems import refuse_all_alike
from services.intake.readiness import Readiness
from services.intake.reception import Reception
from services.intake.storage import Storage
from services.intake.stream import Streams
from services.intake.tokens import Tokens
from shared.images import ImageLimits
from shared.settings import Settings
from shared.storage import ObjectStorage
from shared.store.client import AsyncStore


def make_house(
    settings: Settings,
    store: AsyncStore,
    objects: ObjectStorage,
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
    images.arm(ImageLimits.of(settings))
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
    for room in (jobs, pictures, batches, deliveries, models, health):
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
