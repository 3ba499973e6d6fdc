"""`python -m workers.keeper`: keep, round after round; `--recover` rebuilds records from manifests and ends."""

import argparse
import json
import signal
import sys
import threading
import time

import structlog
from prometheus_client import REGISTRY
from pydantic import ValidationError

from shared.broker import Hints, make_celery
from shared.errors import QueueUnavailable, StorageDown
from shared.logs import configure_logs
from shared.metrics import serve_metrics
from shared.settings import read_settings
from shared.storage import S3Storage
from shared.store.client import Store, connect
from workers.keeper.gauges import House
from workers.keeper.recover import recover, sweep
from workers.keeper.rounds import Keeper

#: Between two searches for orphaned objects, seconds.
SWEEP_PERIOD = 6 * 3600
log = structlog.get_logger(__name__)


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.keeper", description=__doc__)
    parser.add_argument("--recover", action="store_true", help="rebuild lost job records from object storage, then end")
    arguments = parser.parse_args()
    try:
        settings = read_settings()
    except ValidationError as error:
        print(f"keeper: {error}", file=sys.stderr)  # noqa: T201  # there are no logs yet
        return 2
    configure_logs(settings, "keeper")
    store = Store(connect(settings.redis_url, settings), settings.redis_prefix)
    keeper = Keeper(store, S3Storage(settings), Hints(make_celery(settings)), settings)
    if arguments.recover:
        print(json.dumps(recover(store, keeper.objects, keeper.hints)))  # noqa: T201  # the answer
        return 0
    REGISTRY.register(House(store))
    serve_metrics(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("keeper keeps", period=settings.keeper_period)
    keep(keeper, stop)
    log.info("keeper ends")
    return 0


def keep(keeper: Keeper, stop: threading.Event) -> None:
    """Do rounds until `stop` is set, and sweep orphans now and then."""
    next_sweep = time.monotonic() + SWEEP_PERIOD
    while not stop.wait(keeper.settings.keeper_period):
        keeper.round()
        if time.monotonic() >= next_sweep:
            next_sweep = time.monotonic() + SWEEP_PERIOD
            try:
                sweep(keeper.store, keeper.objects, keeper.settings, time.time())
            except (QueueUnavailable, StorageDown) as error:
                log.warning("sweep left to the next time", error=error.detail)


if __name__ == "__main__":
    sys.exit(main())
