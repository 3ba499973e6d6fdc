"""`python -m services.intake`: serve the HTTP API until SIGTERM or SIGINT."""

import asyncio
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import structlog
import uvicorn
from PIL import Image

from services.intake.app import build_app, build_context
from services.intake.auth import is_loopback
from services.intake.clients.storage import STORAGE_THREADS
from services.intake.context import AppContext
from services.intake.uploads import refuse_unless_writable
from shared.broker import Hints, make_celery
from shared.connections.redis_client import connect_async
from shared.errors import QueueUnavailable
from shared.health import HealthServer
from shared.process import run_process
from shared.settings import IntakeSettings, SettingsError
from shared.storage import S3Storage
from shared.store.client import AsyncStore
from shared.store.secrets import missing_keys_problem, use_keys

SHUTDOWN_TIMEOUT_S = 10  #: for requests to end after SIGTERM
READY_TIMEOUT_S = 30  #: for the checks behind /readyz of the health port; each has a shorter one of its own
log = structlog.get_logger(__name__)


def main() -> int:
    """Serve; return the exit status."""
    return run_process("intake", IntakeSettings, serve)


def serve(settings: IntakeSettings) -> int:
    """Serve until a signal. Raises `SettingsError`."""
    warnings.filterwarnings("ignore", module="PIL")  # about the metadata of images
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    refuse_unless_writable()
    try:
        context = _context(settings)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    server = _Server(context)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        return runner.run(_serve(context, server))


async def _serve(context: AppContext, server: "_Server") -> int:
    for check in (_exposed, _missing_keys):
        if (problem := await check(context)) is not None:
            raise SettingsError(problem)
    health = HealthServer(
        context.settings, ready={"intake": partial(_check_ready, context, asyncio.get_running_loop())}
    )
    await server.serve()
    health.close()
    return 0 if server.started else 1


def _check_ready(context: AppContext, loop: asyncio.AbstractEventLoop) -> None:
    """Raise with the reasons while a submission would be refused. Called from the thread of the health port."""
    report = asyncio.run_coroutine_threadsafe(context.readiness.check(), loop).result(READY_TIMEOUT_S)
    reasons = [f"{name}: {state.reason}" for name, state in report.dependencies.items() if not state.up]
    if reasons:
        raise RuntimeError("; ".join(reasons))


def _context(settings: IntakeSettings) -> AppContext:
    client = connect_async(settings.store_endpoint)
    store = AsyncStore(client, settings.redis_prefix, timeout_s=settings.redis_timeout)
    events = connect_async(settings.events_endpoint)
    objects = S3Storage(settings, STORAGE_THREADS)
    return build_context(settings, store, objects, Hints(make_celery(settings)), events=events)


async def _exposed(context: AppContext) -> str | None:
    """Return why the address can't be bound: without keys, only loopback is served."""
    host = context.settings.host
    if is_loopback(host):
        return None
    try:
        no_keys = await context.authenticator.has_no_keys()
    except QueueUnavailable as error:  # until the store answers, every request is refused
        log.warning("API keys not known yet", error=error.detail)
        return None
    if not no_keys:
        return None
    return (
        f"TILEQ_HOST={host} is reachable from other machines, and this service has no API keys. "
        "Make one with `tileq keys create`, or set TILEQ_API_KEYS, or bind 127.0.0.1."
    )


async def _missing_keys(context: AppContext) -> str | None:
    """Return why the keys of TILEQ_SECRETS_KEY do not suffice, or None."""
    keyring = context.settings.keyring
    if not keyring.ids:
        log.info("webhook secrets and headers are stored in plain: TILEQ_SECRETS_KEY is empty")
    try:
        missing = await context.store.run(use_keys(keyring))
    except QueueUnavailable as error:
        log.warning("keys of stored secrets not checked at start", error=error.detail)
        return None
    return missing_keys_problem(missing)


class _Server(uvicorn.Server):
    """Uvicorn that answers waiting requests at a signal and then exits with status 0."""

    def __init__(self, context: AppContext) -> None:
        settings = context.settings
        self._context = context
        super().__init__(
            uvicorn.Config(
                build_app(context),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # anybody can send X-Forwarded-For
                server_header=False,
                ws="none",
                timeout_keep_alive=settings.keep_alive,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Shut down on SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _end(self) -> None:
        self.should_exit = True
        self._context.changes.close()


if __name__ == "__main__":
    sys.exit(main())
