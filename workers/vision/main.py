"""`python -m workers.vision`: load one model, then work for as long as nobody says stop."""

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
from pydantic import ValidationError

from shared.broker import JOB_AVAILABLE, Hints, make_celery, task, vision_queue
from shared.errors import StorageDown
from shared.logs import configure_logs
from shared.metrics import serve_metrics
from shared.models import model_id_of
from shared.settings import Settings, read_settings
from shared.storage import ObjectStorage, S3Storage, tokenizer_key
from shared.store.client import Store, connect
from workers.vision.checkpoint.errors import CheckpointError
from workers.vision.deltas import Deltas
from workers.vision.engine.factory import Served, make_engine
from workers.vision.farewell import Farewell
from workers.vision.hands import Hands
from workers.vision.images import Images, Unseen
from workers.vision.pulse import Presence, Pulse
from workers.vision.sandbox import Sandbox, SandboxError
from workers.vision.watchdog import Watchdog
from workers.vision.worker import Worker

#: Between two tries to hand the tokenizer to intake, seconds.
AGAIN = 10.0
log = structlog.get_logger(__name__)


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    signal.signal(signal.SIGTERM, _leave)  # while loading; Celery takes it over
    try:
        settings = read_settings()
    except ValidationError as error:
        print(f"vision: {error}", file=sys.stderr)  # noqa: T201  # there are no logs yet
        return 2
    configure_logs(settings, "vision")
    try:
        served = load(settings)
        sandbox = Sandbox(
            settings.decoders,
            settings.decode_timeout,
            settings.decode_memory,
            settings.image_mode,
            max_pixels=settings.max_image_pixels,
            side=served.side,
        )
    except (CheckpointError, SandboxError) as error:
        log.critical("this worker can't work", error=str(error))
        return 1
    except Exception:  # torch and the device fail in many ways
        log.critical("this worker can't work", exc_info=True)
        return 1
    log.info("model resident", model=served.model.id, engine=settings.engine)
    with sandbox:
        return serve(settings, served, sandbox)


def load(settings: Settings) -> Served:
    """Load the model, and call it what intake calls it. Raises `CheckpointError`."""
    served = make_engine(settings, report=lambda line: log.info("loading", said=line))
    return replace(served, model=replace(served.model, id=model_id_of(settings)))


def serve(settings: Settings, served: Served, sandbox: Sandbox) -> int:
    """Put the worker together, consume hints until told to stop, and take it apart again."""
    name = settings.worker_name or f"{socket.gethostname()}-{os.getpid()}"
    store = Store(connect(settings.redis_url, settings), settings.redis_prefix)
    objects = S3Storage(settings)
    app = make_celery(settings, vision_queue(served.model.id))
    hands = Hands()
    slots = settings.slots or served.engine.slots
    card = asdict(served.model) | {"engine": settings.engine, "slots": slots}
    presence = Presence(store, served.model.id, name, card)
    kind = Unseen if settings.engine == "echo" and not settings.echo_tiles else Images
    images = kind(objects, sandbox, threads=slots + 2 * settings.decoders)
    deltas = Deltas(connect(settings.events, settings), settings.redis_prefix, settings.delta_interval)
    pulse = Pulse(store, hands, served.engine, presence, lease=settings.lease, interval=settings.cancel_interval)
    farewell = Farewell(store, hands, served.engine, settings.shutdown_grace)
    worker = Worker(
        name, settings, store, objects, Hints(app), served, images, deltas, hands, stopping=farewell.stopping
    )
    with ExitStack() as stack:
        stack.callback(farewell.over.set)
        for part in (served.engine, images, deltas, pulse):
            stack.callback(part.close)
        for thread in (deltas, pulse, farewell, Watchdog(served.engine, hands, settings.stall)):
            thread.start()
        threading.Thread(target=publish, args=(served, objects, farewell.stopping), daemon=True).start()
        serve_metrics(settings)  # last: whoever reaches it takes this worker for ready
        return consume(app, worker, farewell, slots)


def consume(app: Celery, worker: Worker, farewell: Farewell, slots: int) -> int:
    """Run Celery's worker on the threads pool until a signal; return the exit status."""
    task(app, JOB_AVAILABLE)(worker.look)

    def keep_our_logs(**_: object) -> None:
        """Celery sets none up where somebody listens to this signal."""

    def go(**_: object) -> None:
        farewell.begin()

    signals.setup_logging.connect(keep_our_logs)
    signals.worker_shutting_down.connect(go)
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
    if farewell.stopping.is_set():
        return 0
    farewell.begin()  # Celery gave up by itself
    return int(celery.exitcode or 1)


def publish(served: Served, objects: ObjectStorage, stopping: threading.Event) -> None:
    """Hand the tokenizer to intake, so that it counts prompts exactly; again until the storage takes it."""
    if served.tokenizer is None:
        return
    data = served.tokenizer.to_json().encode()
    while not stopping.is_set():
        try:
            objects.put(tokenizer_key(served.model.id), data, "application/json")
        except StorageDown as error:
            log.warning("tokenizer not published yet", error=error.detail)
            stopping.wait(AGAIN)
        else:
            return


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)
