"""`python -m services.intake`: serve the HTTP API until SIGTERM or SIGINT."""

import asyncio
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from PIL import Image

from services.intake.app import make_app, make_house
from services.intake.auth import is_loopback
from services.intake.house import House
from shared.broker import Hints, make_celery
from shared.connections.redis_client import connect_async
from shared.errors import QueueUnavailable
from shared.logs import configure_logs
from shared.metrics import serve_metrics
from shared.settings import Settings, read_settings
from shared.storage import S3Storage
from shared.store.client import AsyncStore

GRACE = 10  #: seconds that requests have to end after SIGTERM
SPARE = 16  #: connections to the Redis of the deltas beside those of open streams
log = structlog.get_logger(__name__)


def main() -> int:
    """Serve; return the exit status: 2 for settings that can't be served."""
    try:
        settings = read_settings()
        configure_logs(settings, "intake")
        warnings.filterwarnings("ignore", module="PIL")  # what it thinks of a picture's metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        house = _house(settings)
    except ValueError as error:
        print(f"intake: {error}", file=sys.stderr)  # noqa: T201  # there are no logs yet
        return 2
    server = _Server(house)
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        return runner.run(_serve(house, server))


async def _serve(house: House, server: "_Server") -> int:
    problem = await _exposed(house)
    if problem:
        print(f"intake: {problem}", file=sys.stderr)  # noqa: T201
        return 2
    serve_metrics(house.settings)
    await server.serve()
    return 0 if server.started else 1


def _house(settings: Settings) -> House:
    store = AsyncStore(connect_async(settings.store_endpoint), settings.redis_prefix)
    events = connect_async(settings.events_endpoint, settings.max_streams + SPARE)  # each stream blocks one
    return make_house(settings, store, S3Storage(settings), Hints(make_celery(settings)), events=events)


async def _exposed(house: House) -> str | None:
    """Say why the address can't be bound: without keys, only loopback is served."""
    host = house.settings.host
    if is_loopback(host):
        return None
    try:
        keyless = await house.door.keyless()
    except QueueUnavailable as error:  # then nobody is let in until the store says who may
        log.warning("keys not known yet", error=error.detail)
        return None
    if not keyless:
        return None
    return (
        f"TILEQ_HOST={host} is reachable from other machines, and this service has no API keys. "
        "Make one with `tileq keys create`, or set TILEQ_API_KEYS, or bind 127.0.0.1."
    )


class _Server(uvicorn.Server):
    """Uvicorn that lets those who wait go when it is told to end, and then ends with status 0."""

    def __init__(self, house: House) -> None:
        settings = house.settings
        self._house = house
        super().__init__(
            uvicorn.Config(
                make_app(house),
                host=settings.host,
                port=settings.port,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # anybody may write X-Forwarded-For
                server_header=False,
                ws="none",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=GRACE,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGTERM and SIGINT, once."""
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
        self._house.changes.close()


if __name__ == "__main__":
    sys.exit(main())
