"""`python -m services.intake.batches`: work on batches of files until SIGTERM or SIGINT."""

import asyncio
import signal
import sys
import warnings

import structlog
from PIL import Image

from services.intake.app import running
from services.intake.batches.worker import BatchWorker
from services.intake.context import AppContext
from services.intake.server import make_context
from services.intake.timeouts import READY_TIMEOUT_S
from services.intake.uploads import refuse_unless_writable
from shared.health import HealthServer
from shared.images import ImageLimits
from shared.imaging.opening import configure_pillow
from shared.process import run_process
from shared.settings.roles import IntakeSettings
from shared.store.health import probe

log = structlog.get_logger(__name__)


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    return run_process("batches", IntakeSettings, serve)


def serve(settings: IntakeSettings) -> int:
    """Work until a signal; return the exit status. Raises `SettingsError`."""
    warnings.filterwarnings("ignore", module="PIL")  # about the metadata of images
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    configure_pillow(ImageLimits.of(settings))
    refuse_unless_writable()
    asyncio.run(_work(make_context(settings)))
    return 0


async def _work(context: AppContext) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def check_store() -> None:
        asyncio.run_coroutine_threadsafe(context.store.run(probe()), loop).result(READY_TIMEOUT_S)

    health = HealthServer(context.settings, ready={"store": check_store})
    log.info("process of batches started", slots=context.settings.batch_slots)
    async with running(context, follows_jobs=False):
        workers = [BatchWorker(context) for _ in range(context.settings.batch_slots)]
        await asyncio.gather(*(worker.run(stop) for worker in workers))
    await asyncio.to_thread(health.close)
    log.info("process of batches stopped")


if __name__ == "__main__":
    sys.exit(main())
