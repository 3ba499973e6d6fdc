"""`python -m workers.webhooks`: deliver webhooks until SIGTERM or SIGINT; attempts under way may end."""

import sys
import threading

import structlog

from shared.broker import DELIVERY_DUE, WEBHOOK_QUEUE, HintConsumer, make_celery
from shared.connections.redis_client import connect
from shared.errors import QueueUnavailable
from shared.health import HealthServer
from shared.process import run_process
from shared.s3_storage import S3Storage
from shared.settings.base import SettingsError
from shared.settings.roles import WebhooksSettings
from shared.store.client import Store
from shared.store.health import probe
from shared.store.secrets import missing_keys_problem, use_keys
from shared.webhooks.signing import secret_problem
from workers.webhooks.client import WebhookClient
from workers.webhooks.dispatcher import WebhookDispatcher
from workers.webhooks.pool import DeliveryPool
from workers.webhooks.subscription import DueSubscription

log = structlog.get_logger(__name__)


def main() -> int:
    """Run until SIGTERM or SIGINT; return the exit status."""
    return run_process("webhooks", WebhooksSettings, serve)


def serve(settings: WebhooksSettings) -> int:
    """Deliver until a signal; return the exit status. Raises `SettingsError` for secrets that can't sign."""
    refuse_malformed_secret(settings)
    stop = threading.Event()
    store = Store(connect(settings.store_endpoint), settings.redis_prefix)
    refuse_missing_keys(store, settings)
    objects = S3Storage(settings, settings.webhook_concurrency)
    dispatcher = WebhookDispatcher(store, objects, WebhookClient(settings), settings, stop.is_set)
    pool = DeliveryPool(dispatcher.deliver_due, settings.webhook_concurrency)
    consumer = HintConsumer(
        make_celery(settings, WEBHOOK_QUEUE),
        DELIVERY_DUE,
        pool.run,
        threads=settings.webhook_concurrency,
        on_stop=stop.set,
    )
    health = HealthServer(settings, ready={"broker": consumer.check, "store": lambda: store.run(probe())})
    log.info("webhook dispatcher started", threads=settings.webhook_concurrency, timeout=settings.webhook_timeout)
    DueSubscription(store, pool.wake, stop).start()
    status = consumer.run()
    pool.close()
    health.close()
    log.info("webhook dispatcher stopped")
    return status


def refuse_malformed_secret(settings: WebhooksSettings) -> None:
    """Raise `SettingsError` where TILEQ_WEBHOOK_SECRET is set and is no secret of Standard Webhooks."""
    secret = settings.webhook_secret.get_secret_value()
    if secret and (problem := secret_problem(secret)) is not None:
        raise SettingsError(f"TILEQ_WEBHOOK_SECRET {problem}")


def refuse_missing_keys(store: Store, settings: WebhooksSettings) -> None:
    """Raise `SettingsError` where stored secrets are encrypted with a key that TILEQ_SECRETS_KEY lacks."""
    try:
        missing = store.run(use_keys(settings.keyring))
    except QueueUnavailable as error:  # then a message whose secrets can't be decrypted is put off
        log.warning("keys of stored secrets not checked at start", error=error.detail)
        return
    if (problem := missing_keys_problem(missing)) is not None:
        raise SettingsError(problem)


if __name__ == "__main__":
    sys.exit(main())
