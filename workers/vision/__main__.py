"""`python -m workers.vision`: load one model, then process its jobs until a signal."""

import os
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import NoReturn

import structlog
from celery import Celery, signals
from prometheus_client import REGISTRY

from shared.broker import JOB_AVAILABLE, Hints, make_celery, task, vision_queue
from shared.connections.redis_client import connect
from shared.errors import StorageDown
from shared.logs import configure_logs
from shared.metrics import serve_metrics
from shared.models import model_id_of
from shared.settings import Settings, SettingsError, read_settings
from shared.storage import ObjectStorage, S3Storage, tokenizer_key
from shared.store.client import Store
from workers.vision.attempt import InFlightJobs
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.deltas import DeltaWriter
from workers.vision.engine.collector import EngineCollector
from workers.vision.engine.factory import ServedModel, make_engine
from workers.vision.heartbeat import Heartbeat, WorkerRegistration
from workers.vision.images.decoder_pool import DecoderOptions, DecoderPool, DecoderUnavailable
from workers.vision.images.pipeline import HeaderOnlyImages, ImagePipeline
from workers.vision.shutdown import GracefulShutdown
from workers.vision.watchdog import Watchdog
from workers.vision.worker import Worker

PUBLISH_RETRY_DELAY_S = 10.0  #: between two tries to store the tokenizer for intake
log = structlog.get_logger("workers.vision")


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    signal.signal(signal.SIGTERM, _exit_on_signal)  # while loading; Celery takes it over
    try:
        settings = read_settings()
    except SettingsError as error:
        print(f"vision: {error}", file=sys.stderr)  # noqa: T201  # there are no logs yet
        return 2
    configure_logs(settings, "vision")
    try:
        served = load(settings)
        decoders = DecoderPool(settings.decoders, DecoderOptions.of(settings, served.side))
    except (CheckpointError, DecoderUnavailable) as error:
        log.critical("worker can't start", error=str(error))
        return 1
    except Exception:  # torch and the device fail in many ways
        log.critical("worker can't start", exc_info=True)
        return 1
    log.info("model resident", model=served.model.id, engine=settings.engine)
    with decoders:
        return serve(settings, served, decoders)


def load(settings: Settings) -> ServedModel:
    """Load the model under the id that intake knows it by. Raises `CheckpointError`."""
    served = make_engine(settings, report=lambda line: log.info("loading", detail=line))
    return replace(served, model=replace(served.model, id=model_id_of(settings)))


def serve(settings: Settings, served: ServedModel, decoders: DecoderPool) -> int:
    """Assemble the worker, consume hints until a signal, and take it apart again; return the exit status."""
    name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
    engine = served.engine
    store = Store(connect(settings.store_endpoint), settings.redis_prefix)
    objects = S3Storage(settings)
    app = make_celery(settings, vision_queue(served.model.id))
    jobs = InFlightJobs()
    slots = settings.slots or engine.slots
    card = asdict(served.model) | {"engine": settings.engine, "slots": slots}
    registration = WorkerRegistration(store, served.model.id, name, card)
    kind = HeaderOnlyImages if settings.engine == "echo" and not settings.echo_tiles else ImagePipeline
    images = kind(objects, decoders, threads=slots + 2 * settings.decoders)
    deltas = DeltaWriter(connect(settings.events_endpoint), settings.redis_prefix, settings.delta_interval)
    heartbeat = Heartbeat(store, jobs, engine, registration, lease=settings.lease, interval=settings.cancel_interval)
    shutdown = GracefulShutdown(store, jobs, engine, settings.shutdown_grace)
    worker = Worker(
        name, settings, store, objects, Hints(app), served, images, deltas, jobs, stopping=shutdown.stopping
    )
    with ExitStack() as stack:
        stack.callback(shutdown.finished.set)
        for part in (engine, images, deltas, heartbeat):
            stack.callback(part.close)
        for thread in (deltas, heartbeat, shutdown, Watchdog(engine, jobs, settings.stall)):
            thread.start()
        threading.Thread(target=publish_tokenizer, args=(served, objects, shutdown.stopping), daemon=True).start()
        REGISTRY.register(EngineCollector(engine))
        serve_metrics(settings)  # last: a process whose /metrics answers counts as ready
        return consume(app, worker, shutdown, slots)


def consume(app: Celery, worker: Worker, shutdown: GracefulShutdown, slots: int) -> int:
    """Run Celery's worker on the threads pool until a signal; return the exit status."""
    task(app, JOB_AVAILABLE)(worker.handle_hint)

    def keep_our_logs(**_: object) -> None:
        """Celery configures no logging where this signal has a receiver."""

    def stop(**_: object) -> None:
        shutdown.request()

    signals.setup_logging.connect(keep_our_logs)
    signals.worker_shutting_down.connect(stop)
    celery = app.Worker(
        pool="threads",
        concurrency=slots,
        hostname=f"vision@{worker.name}",
        without_mingle=True,
        without_gossip=True,
        without_heartbeat=True,
        quiet=True,
    )
    celery.start()
    if shutdown.stopping.is_set():
        return 0
    shutdown.request()  # Celery ended without a signal
    return int(celery.exitcode or 1)


def publish_tokenizer(served: ServedModel, objects: ObjectStorage, stopping: threading.Event) -> None:
    """Store the tokenizer for intake, which counts prompts exactly with it; repeat until the storage takes it."""
    if served.tokenizer is None:
        return
    data = served.tokenizer.to_json().encode()
    while not stopping.is_set():
        try:
            objects.put(tokenizer_key(served.model.id), data, "application/json")
        except StorageDown as error:
            log.warning("tokenizer not published yet", error=error.detail)
            stopping.wait(PUBLISH_RETRY_DELAY_S)
        else:
            return


def _exit_on_signal(*_: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
