"""Celery: every queue and task name, and the one place where an app is made.

A message says "look at this job" and carries its id, nothing else. Losing or repeating one costs time, never a job
(kombu's BRPOP and its write to `unacked` are two round trips; a SIGKILL between them loses the message).
"""

import uuid
from collections.abc import Callable
from typing import Protocol

import structlog
from celery import Celery, signals
from kombu.entity import Exchange, Queue
from prometheus_client import Counter

from shared.connections.broker_transport import EndpointTransport
from shared.connections.redis_client import HEALTH_CHECK_S
from shared.settings.roles import BrokerSettings

JOB_AVAILABLE = "tileq.look"  #: (job id) a job of this queue's model waits
DELIVERY_DUE = "tileq.deliver"  #: (message id) a webhook is due
PROBE_QUEUE = "health"  #: queue of readiness, emptied at once
PRODUCER_WAIT_S = 5.0  #: for one of the connections that publish
WEBHOOK_QUEUE = "webhooks"  #: queue of DELIVERY_DUE

HINTS = Counter("tileq_hints_published_total", "Hints published", ["queue", "outcome"])
log = structlog.get_logger(__name__)


def vision_queue(model: str) -> str:
    """Return the queue that workers of `model` listen to."""
    return f"vision.{model}"


def queue(name: str) -> Queue:
    """Return `name` on the anonymous exchange: it needs no binding, so none can be lost (celery app/amqp.py)."""
    return Queue(name, Exchange(""), routing_key=name)  # type: ignore[no-untyped-call]


def make_celery(settings: BrokerSettings, *queues: str) -> Celery:
    """Return an app that can publish hints, and consume `queues` when run as a worker. Nothing connects yet."""
    app = Celery("tileq", set_as_current=False)
    endpoint = settings.broker_endpoint
    visibility = int(4 * settings.max_run_within)
    app.conf.update(
        broker_url=endpoint.address,  # shown in logs only
        broker_transport=EndpointTransport,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[queue(name) for name in queues],
        task_default_queue=queues[0] if queues else WEBHOOK_QUEUE,
        task_create_missing_queues=False,
        task_acks_late=True,
        task_acks_on_failure=True,
        task_acks_on_timeout=True,
        task_reject_on_worker_lost=False,  # attempts are counted in the job record; the reconciler repeats the hint
        visibility_timeout=visibility,
        broker_transport_options={
            "visibility_timeout": visibility,
            "global_keyprefix": settings.redis_prefix + "mq:",
            "endpoint": endpoint,
            "app": uuid.uuid4().hex,  # else kombu shares a pool between apps that differ in a password only
            "health_check_interval": HEALTH_CHECK_S,
            "unacked_restore_interval": 5,
            "deadletter_queue": "undeliverable",
            "max_retries": 0,  # of connecting in order to publish (kombu's default: 4 s of waits for each hint)
        },
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        task_publish_retry=False,  # the outbox repeats it
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # With True, kombu on Redis strands the message in `unacked` for the whole visibility timeout.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,  # an unauthenticated control plane
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
    )
    return app


class Publisher(Protocol):
    """Publishes hints; a lost one is repeated by the reconciler."""

    def job(self, model: str, job: str, *, unless_waiting: int = 0) -> bool:
        """Hint that `job` waits for a worker of `model`; False when the broker did not take it.

        With `unless_waiting`, nothing is published where so many hints wait already.
        """

    def deliveries(self, *messages: str) -> bool:
        """Hint that webhook messages are due; False when the broker did not take all of them."""

    def check(self) -> None:
        """Publish a message and take it back; raises what the broker or the way to it raises."""


class Hints:
    """Publishes hints and never fails: what the broker does not take, the reconciler repeats from the outbox."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    def job(self, model: str, job: str, *, unless_waiting: int = 0) -> bool:
        """See `Publisher.job`."""
        return self._send(JOB_AVAILABLE, vision_queue(model), job, unless_waiting)

    def deliveries(self, *messages: str) -> bool:
        """See `Publisher.deliveries`."""
        sent = [self._send(DELIVERY_DUE, WEBHOOK_QUEUE, message) for message in messages]
        return all(sent)

    def check(self) -> None:
        """See `Publisher.check`. It goes to a queue that no worker reads, over a connection that hints use too."""
        with self._app.producer_pool.acquire(block=True, timeout=PRODUCER_WAIT_S) as producer:
            producer.publish("", exchange="", routing_key=PROBE_QUEUE, retry=False)
            producer.channel.queue_purge(PROBE_QUEUE)

    def depth(self, name: str) -> int:
        """Return how many hints wait in queue `name`."""
        with self._app.producer_pool.acquire(block=True, timeout=PRODUCER_WAIT_S) as producer:
            # Not passive: kombu's test of existence ignores `global_keyprefix`. On Redis declaring creates nothing.
            return int(producer.channel.queue_declare(queue=name).message_count)

    def _send(self, task: str, name: str, id: str, unless_waiting: int = 0) -> bool:
        try:
            if unless_waiting and self.depth(name) >= unless_waiting:
                return True
            self._app.send_task(task, args=(id,), queue=queue(name), retry=False)
        except Exception as error:  # a broker fails in kombu's, redis' and the OS' ways; the outbox has the job anyway
            HINTS.labels(name, "refused").inc()
            log.warning("hint not published, the reconciler will repeat it", queue=name, id=id, error=str(error))
            return False
        HINTS.labels(name, "published").inc()
        return True


class HintConsumer:
    """A Celery worker on the threads pool that calls `handle` with the id of each hint of one task.

    `on_stop` is called when SIGTERM or SIGINT arrives; hints that are being handled then may end.
    """

    def __init__(
        self,
        app: Celery,
        name: str,
        handle: Callable[[str], object],
        *,
        threads: int,
        on_stop: Callable[[], None],
        hostname: str | None = None,
    ) -> None:
        self._stopped = False
        self._on_stop = on_stop
        app.task(name=name, ignore_result=True)(_named(handle))
        signals.setup_logging.connect(_configure_no_logs, weak=False)
        signals.worker_shutting_down.connect(self._stop, weak=False)
        self._worker = app.Worker(
            pool="threads",
            concurrency=threads,
            hostname=hostname,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
            redirect_stdouts=False,
        )

    def run(self) -> int:
        """Consume until a signal arrives; return 0 then, and another exit status where Celery ended by itself."""
        self._worker.start()
        if self._stopped:
            return 0
        self._on_stop()
        return int(self._worker.exitcode or 1)

    def check(self) -> None:
        """Raise `ConnectionError` unless the worker is connected to its broker."""
        connection = self._worker.consumer.connection
        if connection is None or not connection.connected:
            raise ConnectionError("the consumer is not connected to the broker")

    def _stop(self, **_: object) -> None:
        self._stopped = True
        self._on_stop()


def _named(handle: Callable[[str], object]) -> Callable[[str], None]:
    """Return `handle` as a plain function: Celery reads the signature of a task from its source name."""

    def handle_hint(id: str) -> None:
        handle(id)

    return handle_hint


def _configure_no_logs(**_: object) -> None:
    """Celery configures no logging where this signal has a receiver."""
