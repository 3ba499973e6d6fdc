"""One intake process: one event loop, its clients and its metrics, until SIGTERM or SIGINT."""

import asyncio
import gc
import signal
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
import uvicorn
from PIL import Image

from services.intake.app import build_app, build_context
from services.intake.auth import is_loopback
from services.intake.clients.storage import STORAGE_THREADS
from services.intake.context import AppContext
from services.intake.http_protocol import BoundedHttpProtocol
from services.intake.timeouts import READY_TIMEOUT_S, SHUTDOWN_TIMEOUT_S
from services.intake.uploads import refuse_unless_writable
from shared.broker import Hints, make_celery
from shared.connections.redis_client import connect_async
from shared.errors import QueueUnavailable
from shared.health import HealthServer
from shared.s3_storage import S3Storage
from shared.settings.base import SettingsError
from shared.settings.roles import IntakeSettings
from shared.store.client import AsyncStore
from shared.store.secrets import missing_keys_problem, use_keys

#: Objects that are made and not freed before Python looks for cycles among them; its own threshold is 700, which the
#: requests of a few milliseconds reach.
GC_THRESHOLD = 10_000
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RunningServer:
    """A server that takes requests. Both methods may be called from any other thread than the event loop's."""

    server: "_Server"
    loop: asyncio.AbstractEventLoop

    def unready_reason(self) -> str:
        """Return why a submission would be refused, or "". Raises `TimeoutError` where the event loop hangs."""
        check = self.server.context.readiness.check()
        report = asyncio.run_coroutine_threadsafe(check, self.loop).result(READY_TIMEOUT_S)
        return "; ".join(f"{name}: {state.reason}" for name, state in report.dependencies.items() if not state.up)

    def check_ready(self) -> None:
        """Raise `RuntimeError` with the reasons while a submission would be refused."""
        if reason := self.unready_reason():
            raise RuntimeError(reason)

    def stop(self) -> None:
        """Shut down as at SIGTERM."""
        self.loop.call_soon_threadsafe(self.server.end)


def serve(
    settings: IntakeSettings,
    *,
    sockets: Sequence[socket.socket] = (),
    started: Callable[[RunningServer], None] = lambda _: None,
) -> int:
    """Serve until a signal, on `sockets` or else on the settings' address; `started` is called once requests are taken.

    Return the exit status. Raises `SettingsError`.
    """
    warnings.filterwarnings("ignore", module="PIL")  # about the metadata of images
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    refuse_unless_writable()
    try:
        context = make_context(settings)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    server = _Server(context, started)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        return runner.run(_serve(context, server, sockets))


async def _serve(context: AppContext, server: "_Server", sockets: Sequence[socket.socket]) -> int:
    for check in (_exposed, _missing_keys):
        if (problem := await check(context)) is not None:
            raise SettingsError(problem)
    running = RunningServer(server, asyncio.get_running_loop())
    health = HealthServer(context.settings, ready={"intake": running.check_ready})
    await server.serve(list(sockets) or None)
    health.close()
    return 0 if server.started else 1


def make_context(settings: IntakeSettings) -> AppContext:
    """Return the objects of a service with the clients that `settings` name; nothing connects yet."""
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

    def __init__(self, context: AppContext, on_start: Callable[[RunningServer], None]) -> None:
        settings = context.settings
        self.context = context
        self._on_start = on_start
        super().__init__(
            uvicorn.Config(
                build_app(context),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # anybody can send X-Forwarded-For
                server_header=False,
                http=BoundedHttpProtocol,
                ws="none",
                timeout_keep_alive=settings.keep_alive,
                timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then call `on_start`."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()  # what was made so far lives as long as the process
        gc.set_threshold(GC_THRESHOLD)
        if self.started:
            self._on_start(RunningServer(self, asyncio.get_running_loop()))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Shut down on SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self.end)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def end(self) -> None:
        """Begin to shut down: answer who waits, take no more requests."""
        self.should_exit = True
        self.context.changes.close()
