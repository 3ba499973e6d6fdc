"""`python -m workers.reconciler`: reconcile once a period; `--recover` rebuilds records from manifests and ends."""

import argparse
import json
import signal
import sys
import threading
import time

import structlog
from prometheus_client import REGISTRY

from shared.broker import Hints, make_celery
from shared.connections.redis_client import connect
from shared.errors import QueueUnavailable, StorageDown
from shared.logs import configure_logs
from shared.metrics import serve_metrics
from shared.settings import SettingsError, read_settings
from shared.storage import S3Storage
from shared.store.client import Store
from workers.reconciler.collector import StoreCollector
from workers.reconciler.reconcile import Reconciler
from workers.reconciler.recover import recover, sweep

#: Between two searches for orphaned objects, seconds.
SWEEP_PERIOD = 6 * 3600
log = structlog.get_logger(__name__)


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.reconciler", description=__doc__)
    parser.add_argument("--recover", action="store_true", help="rebuild lost job records from object storage, then end")
    arguments = parser.parse_args()
    try:
        settings = read_settings()
    except SettingsError as error:
        print(f"reconciler: {error}", file=sys.stderr)  # noqa: T201  # there are no logs yet
        return 2
    configure_logs(settings, "reconciler")
    store = Store(connect(settings.store_endpoint), settings.redis_prefix)
    reconciler = Reconciler(store, S3Storage(settings), Hints(make_celery(settings)), settings)
    if arguments.recover:
        print(json.dumps(recover(store, reconciler.objects, reconciler.hints)))  # noqa: T201  # the answer
        return 0
    REGISTRY.register(StoreCollector(store))
    serve_metrics(settings)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("reconciler started", period=settings.reconcile_period)
    run_until(stop, reconciler)
    log.info("reconciler stopped")
    return 0


def run_until(stop: threading.Event, reconciler: Reconciler) -> None:
    """Reconcile every `reconcile_period` seconds until `stop` is set, and sweep orphans every `SWEEP_PERIOD`."""
    next_sweep = time.monotonic() + SWEEP_PERIOD
    while not stop.wait(reconciler.settings.reconcile_period):
        reconciler.reconcile()
        if time.monotonic() >= next_sweep:
            next_sweep = time.monotonic() + SWEEP_PERIOD
            try:
                sweep(reconciler.store, reconciler.objects, reconciler.settings, time.time())
            except (QueueUnavailable, StorageDown) as error:
                log.warning("sweep left to the next time", error=error.detail)


if __name__ == "__main__":
    sys.exit(main())
