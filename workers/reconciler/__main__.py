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
from shared.health import HealthServer
from shared.process import run_process
from shared.s3_storage import S3Storage
from shared.settings.roles import ReconcilerSettings
from shared.store.client import Store
from shared.store.health import probe
from workers.reconciler.collector import StoreCollector
from workers.reconciler.reconcile import Reconciler
from workers.reconciler.recover import recover, sweep

SWEEP_PERIOD_S = 6 * 3600  #: between two searches for orphaned objects
log = structlog.get_logger(__name__)


def main() -> int:
    """Run until SIGTERM or SIGINT, or recover; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.reconciler", description=__doc__)
    parser.add_argument("--recover", action="store_true", help="rebuild lost job records from object storage, then end")
    arguments = parser.parse_args()
    return run_process("reconciler", ReconcilerSettings, recover_records if arguments.recover else serve)


def recover_records(settings: ReconcilerSettings) -> int:
    """Rebuild the lost records and print the counts as JSON; return the exit status."""
    reconciler = assemble(settings)
    try:
        counts = recover(reconciler.store, reconciler.objects, reconciler.hints)
    except (QueueUnavailable, StorageDown) as error:
        log.error("recovery stopped; start it again, it continues where it stopped", error=error.detail)
        return 1
    print(json.dumps(counts))  # noqa: T201  # the output
    return 0


def serve(settings: ReconcilerSettings) -> int:
    """Reconcile until a signal; return the exit status."""
    reconciler = assemble(settings)
    REGISTRY.register(StoreCollector(reconciler.store))
    health = HealthServer(settings, ready={"store": lambda: reconciler.store.run(probe())})
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("reconciler started", period=settings.reconcile_period)
    run_until(stop, reconciler, settings)
    health.close()
    log.info("reconciler stopped")
    return 0


def assemble(settings: ReconcilerSettings) -> Reconciler:
    """Return a reconciler with the clients that the settings name; nothing connects yet."""
    store = Store(connect(settings.store_endpoint), settings.redis_prefix)
    return Reconciler(store, S3Storage(settings), Hints(make_celery(settings)), settings)


def run_until(stop: threading.Event, reconciler: Reconciler, settings: ReconcilerSettings) -> None:
    """Reconcile every `reconcile_period` seconds until `stop` is set."""
    objects = threading.Thread(target=_tend_objects, args=(stop, reconciler, settings), name="objects", daemon=True)
    objects.start()
    while not stop.wait(settings.reconcile_period):
        reconciler.reconcile_store()


def _tend_objects(stop: threading.Event, reconciler: Reconciler, settings: ReconcilerSettings) -> None:
    """Run the steps that need object storage every `reconcile_period` seconds and whenever this process ended a job.

    It sweeps every `SWEEP_PERIOD_S`.

    Steps that left more than they took are run again at once: what ends faster than it is deleted would fill the disk.
    """
    next_sweep = time.monotonic() + SWEEP_PERIOD_S
    is_more_left = False
    while not stop.is_set():
        reconciler.has_ended.wait(0 if is_more_left else settings.reconcile_period)
        is_more_left = reconciler.reconcile_objects()
        if time.monotonic() >= next_sweep:
            next_sweep = time.monotonic() + SWEEP_PERIOD_S
            try:
                sweep(reconciler.store, reconciler.objects, settings, time.time())
            except (QueueUnavailable, StorageDown) as error:
                log.warning("sweep failed, repeated at the next one", error=error.detail)


if __name__ == "__main__":
    sys.exit(main())
