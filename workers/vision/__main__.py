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
from prometheus_client import REGISTRY

from shared.broker import JOB_AVAILABLE, HintConsumer, Hints, make_celery, vision_queue
from shared.connections.redis_client import connect
from shared.errors import StorageDown
from shared.health import HealthServer
from shared.models import model_id_of
from shared.process import run_process
from shared.s3_storage import S3Storage
from shared.settings.roles import VisionWorkerSettings
from shared.storage import ObjectStorage, tokenizer_key
from shared.store.client import Store
from shared.store.health import probe
from workers.vision.affinity import CachedPrompts
from workers.vision.attempt import InFlightJobs
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.deltas import DeltaWriter
from workers.vision.engine.collector import EngineCollector
from workers.vision.engine.factory import ServedModel, make_engine
from workers.vision.heartbeat import Heartbeat, WorkerRegistration
from workers.vision.images.decoder_pool import DecoderOptions, DecoderPool, DecoderUnavailable
from workers.vision.images.pipeline import HeaderOnlyImages, ImagePipeline
from workers.vision.images.url_client import ImageUrlClient
from workers.vision.images.url_images import UrlImages
from workers.vision.shutdown import GracefulShutdown
from workers.vision.storage_outages import StorageOutages
from workers.vision.watchdog import Watchdog
from workers.vision.worker import Worker

PUBLISH_RETRY_DELAY_S = 10.0  #: between two tries to store the tokenizer for intake
log = structlog.get_logger("workers.vision")


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    signal.signal(signal.SIGTERM, _exit_on_signal)  # while loading; Celery takes it over
    return run_process("vision", VisionWorkerSettings, start)


def start(settings: VisionWorkerSettings) -> int:
    """Load the model and serve it; return the exit status. Meanwhile the process is live and not ready."""
    health = HealthServer(settings, ready={"model": _still_loading})
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
        return serve(settings, served, decoders, health)


def load(settings: VisionWorkerSettings) -> ServedModel:
    """Load the model under the id that intake knows it by. Raises `CheckpointError`."""
    served = make_engine(settings, report=lambda line: log.info("loading", detail=line))
    return replace(served, model=replace(served.model, id=model_id_of(settings)))


def serve(settings: VisionWorkerSettings, served: ServedModel, decoders: DecoderPool, health: HealthServer) -> int:
    """Assemble the worker, consume hints until a signal, and take it apart again; return the exit status."""
    name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
    engine = served.engine
    store = Store(connect(settings.store_endpoint), settings.redis_prefix)
    app = make_celery(settings, vision_queue(served.model.id))
    jobs = InFlightJobs()
    slots = settings.slots or engine.slots
    image_threads = slots + 2 * settings.decoders
    objects = S3Storage(settings, slots + image_threads + settings.image_url_concurrency)
    stats = engine.stats()
    paths = {name: [state, stats.fast_path_details[name]] for name, state in stats.fast_paths.items()}
    card = asdict(served.model) | {"engine": settings.engine, "slots": slots, "fast_paths": paths}
    registration = WorkerRegistration(store, served.model.id, name, card)
    kind = HeaderOnlyImages if settings.engine == "echo" and not settings.echo_tiles else ImagePipeline
    images = kind(objects, decoders, threads=image_threads)
    storage = StorageOutages(objects)
    url_images = UrlImages(storage, ImageUrlClient(settings), settings, max_jobs=max(1, slots // 2))
    deltas = DeltaWriter(connect(settings.events_endpoint), settings.redis_prefix, settings.delta_interval)
    heartbeat = Heartbeat(store, jobs, engine, registration, lease=settings.lease, interval=settings.cancel_interval)
    shutdown = GracefulShutdown(store, jobs, engine, settings.shutdown_grace)
    worker = Worker(
        name,
        settings,
        store,
        storage,
        Hints(app),
        served,
        images,
        url_images,
        deltas,
        jobs,
        stopping=shutdown.stopping,
        cached=CachedPrompts(stats.cache_tokens, settings.prefix_cache_sharing),
    )
    with ExitStack() as stack:
        stack.callback(shutdown.finished.set)
        for part in (engine, images, url_images, deltas, heartbeat):
            stack.callback(part.close)
        for thread in (deltas, heartbeat, shutdown, Watchdog(engine, jobs, settings.stall)):
            thread.start()
        threading.Thread(target=publish_tokenizer, args=(served, objects, shutdown.stopping), daemon=True).start()
        REGISTRY.register(EngineCollector(engine))
        consumer = HintConsumer(
            app,
            JOB_AVAILABLE,
            worker.handle_hint,
            threads=slots,
            on_stop=shutdown.request,
            hostname=f"vision@{name}",
        )
        health.require({"broker": consumer.check, "store": lambda: store.run(probe())})
        return consumer.run()


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


def _still_loading() -> None:
    raise RuntimeError("the model is still loading")


def _exit_on_signal(*_: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
