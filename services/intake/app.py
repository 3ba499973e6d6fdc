"""The ASGI application, put together from what is handed in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from redis.asyncio import Redis

from services.intake.auth import Authenticator
from services.intake.clients.background import TaskSet
from services.intake.clients.changes import POLL_S, Changes
from services.intake.clients.delta_reader import DeltaReader
from services.intake.clients.hints import HintPublisher
from services.intake.clients.model_registry import ModelRegistry
from services.intake.clients.object_puts import ObjectPuts
from services.intake.clients.readiness import Readiness
from services.intake.clients.storage import STORAGE_THREADS, Storage
from services.intake.clients.webhook_endpoints import WebhookEndpoints
from services.intake.clients.webhook_urls import WebhookUrlPolicy
from services.intake.context import AppContext
from services.intake.errors import install_handlers
from services.intake.event_stream import EventStreams
from services.intake.middleware import RequestMiddleware
from services.intake.openai import chat, files, responses, uploads, webhook_endpoints
from services.intake.openai.surface import COMMON
from services.intake.openapi import install_document
from services.intake.queries import JobQueries
from services.intake.rate_limits import RateLimiter
from services.intake.routes import batches, images, jobs, system, webhooks
from services.intake.submission.commit import Commit
from services.intake.submission.file_batches import FileBatches
from services.intake.submission.file_store import FileStore
from services.intake.submission.pending_uploads import PendingUploads
from services.intake.submission.prepare import Preparation
from services.intake.submission.prompt_length import PromptLengthCheck
from services.intake.submission.service import Submissions
from shared.broker import Publisher
from shared.images import ImageLimits
from shared.imaging.opening import configure_pillow
from shared.settings.roles import IntakeSettings
from shared.storage import ObjectStorage
from shared.store.client import AsyncStore

ROUTERS = (
    jobs.router,
    images.router,
    batches.router,
    webhooks.router,
    system.router,
    responses.router,
    chat.router,
    webhook_endpoints.router,
    files.router,
    uploads.router,
)


def build_context(
    settings: IntakeSettings,
    store: AsyncStore,
    objects: ObjectStorage,
    publisher: Publisher,
    *,
    events: "Redis | None" = None,
    poll_s: float = POLL_S,
) -> AppContext:
    """Return the objects of a service; `events` is the client of the delta streams where it is not the store's."""
    storage = Storage(objects, ObjectPuts(settings, STORAGE_THREADS))
    background, hints = TaskSet(), HintPublisher(publisher, settings.redis_timeout + 1)
    authenticator = Authenticator(store, settings)
    changes = Changes(store.client, store.prefix, poll_s)
    deltas = DeltaReader(events or store.client, store.prefix)
    queries = JobQueries(store, storage, changes)
    models, readiness = ModelRegistry(store, settings), Readiness(store, storage, hints, settings)
    webhook_urls = WebhookUrlPolicy(authenticator.has_no_keys, settings)
    files_ = FileStore(store, storage, background)
    preparation = Preparation(
        queries=queries,
        storage=storage,
        files=files_,
        models=models,
        prompt_length=PromptLengthCheck(storage, settings),
        webhook_urls=webhook_urls,
        settings=settings,
    )
    commit = Commit(
        store=store,
        storage=storage,
        publisher=hints,
        readiness=readiness,
        background=background,
        settings=settings,
    )
    return AppContext(
        settings=settings,
        store=store,
        storage=storage,
        authenticator=authenticator,
        rate_limiter=RateLimiter(store),
        queries=queries,
        submissions=Submissions(store, queries, preparation, commit, settings),
        preparation=preparation,
        commit=commit,
        file_batches=FileBatches(
            store=store, storage=storage, queries=queries, preparation=preparation, settings=settings
        ),
        streams=EventStreams(queries, changes, deltas, max_streams=settings.max_streams),
        models=models,
        webhook_urls=webhook_urls,
        webhook_endpoints=WebhookEndpoints(store, storage, webhook_urls, settings),
        changes=changes,
        deltas=deltas,
        publisher=hints,
        readiness=readiness,
        files=files_,
        uploads=PendingUploads(store, storage, files_, settings),
        background=background,
    )


def build_app(context: AppContext) -> FastAPI:
    """Return the ASGI application."""
    configure_pillow(ImageLimits.of(context.settings))
    app = FastAPI(
        title="tileq",
        version=version("tileq"),
        description="Images and a question in, an answer out: by webhook, by polling, or as it is generated.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        openapi_url="/openapi.json" if context.settings.openapi else None,
        redirect_slashes=False,
        lifespan=_lifespan,
    )
    app.state.context = context
    for router in ROUTERS:
        app.router.routes.extend(router.routes)  # flat, so that a 405 can name all methods of a path
    install_handlers(app, COMMON)
    install_document(app)
    app.add_middleware(RequestMiddleware, default=COMMON, root_path=context.settings.root_path)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with running(app.state.context):
        yield


@asynccontextmanager
async def running(context: AppContext, *, follows_jobs: bool = True) -> AsyncIterator[None]:
    """Run what the objects of a service do by themselves while the block runs.

    A process that waits for no job and streams no answer need not follow them all: without, a busy service costs it
    nothing.
    """
    context.publisher.start()
    followers = (context.changes, context.deltas) if follows_jobs else ()
    loops = [asyncio.create_task(one.run()) for one in (*followers, context.readiness)]
    try:
        yield
    finally:
        context.changes.close()
        context.deltas.close()
        for task in loops:
            task.cancel()
        await asyncio.wait(loops, timeout=2)
        await context.background.cancel_all()
        await asyncio.to_thread(context.publisher.close)
        await context.storage.close()
