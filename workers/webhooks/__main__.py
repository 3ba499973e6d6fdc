"""`python -m workers.webhooks`: a Celery worker with threads, one delivery each; SIGTERM lets the current ones end."""

import sys
import threading
from typing import Any

import structlog
from celery import Celery, signals

from shared.broker import DELIVERY_DUE, WEBHOOK_QUEUE, make_celery, task
from shared.connections.redis_client import connect
from shared.logs import configure_logs
from shared.metrics import serve_metrics
from shared.settings import Settings, SettingsError, read_settings
from shared.storage import S3Storage
from shared.store.client import Store
from shared.webhooks.signing import secret_problem
from workers.webhooks.client import WebhookClient
from workers.webhooks.dispatcher import WebhookDispatcher

log = structlog.get_logger(__name__)


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    try:
        settings = read_settings()
    except SettingsError as error:
        print(f"webhooks: {error}", file=sys.stderr)  # noqa: T201  # there are no logs yet
        return 2
    secret = settings.webhook_secret.get_secret_value()
    if secret and (problem := secret_problem(secret)) is not None:
        print(f"webhooks: TILEQ_WEBHOOK_SECRET {problem}", file=sys.stderr)  # noqa: T201
        return 2
    configure_logs(settings, "webhooks")
    serve_metrics(settings)
    stop = threading.Event()
    store = Store(connect(settings.store_endpoint), settings.redis_prefix)
    dispatcher = WebhookDispatcher(store, S3Storage(settings), WebhookClient(settings), settings, stop.is_set)
    return run(make_app(dispatcher), settings, stop)


def make_app(dispatcher: WebhookDispatcher) -> Celery:
    """Return the Celery app whose one task delivers what is due."""
    app = make_celery(dispatcher.settings, WEBHOOK_QUEUE)

    @task(app, DELIVERY_DUE)  # type: ignore[untyped-decorator]
    def deliver(msg: str) -> None:
        dispatcher.deliver_due(msg)

    return app


def run(app: Celery, settings: Settings, stop: threading.Event) -> int:
    """Consume hints until a signal; `stop` is set as soon as one comes, and the sends under way end."""

    def keep_our_logs(**_: Any) -> None:
        """Celery sets logging up unless somebody hears this signal."""

    def stopping(**_: Any) -> None:
        stop.set()

    signals.setup_logging.connect(keep_our_logs, weak=False)
    signals.worker_shutting_down.connect(stopping, weak=False)
    worker = app.Worker(
        pool="threads",
        concurrency=settings.webhook_concurrency,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        redirect_stdouts=False,
    )
    log.info("webhook dispatcher started", slots=settings.webhook_concurrency, timeout=settings.webhook_timeout)
    worker.start()
    log.info("webhook dispatcher stopped")
    return int(worker.exitcode or 0)


if __name__ == "__main__":
    sys.exit(main())
