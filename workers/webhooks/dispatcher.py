"""One hint: claim ── read ── sign ── send ── decide ── record, and on to the next message while something is due."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from shared.deliveries import Delivery
from shared.errors import NotFound, ObjectMissing, QueueUnavailable, StorageDown
from shared.keys import KEYLESS
from shared.settings import Settings
from shared.storage import ObjectStorage
from shared.store import deliveries, keys
from shared.store import secrets as webhook_secrets
from shared.store.client import Store
from shared.views import moment
from shared.webhooks import signing
from workers.webhooks.client import Answer, Client
from workers.webhooks.payload import Message, read_message
from workers.webhooks.schedule import Decision, decide, wait_asked

#: A lease outlives the attempt by this: reading the body before it and recording after it.
MARGIN = 15.0
#: Of the margin, what may be spent before sending; later than that, another dispatcher might send at the same time.
READ_WITHIN = 8.0
#: Messages delivered on one hint; then the slot is free for another one.
MOST_PER_HINT = 50
#: Before a message that could not be read is claimed again, seconds.
PUT_BACK = 5.0
#: Characters of an answer kept in the log of attempts.
MOST_LOGGED = 512

DELIVERIES = Counter("tileq_deliveries_total", "Attempts to deliver a webhook", ["outcome"])
SECONDS = Histogram(
    "tileq_delivery_seconds", "Duration of an attempt", buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)
)
SENDING = Gauge("tileq_deliveries_in_flight", "Attempts on their way")
log = structlog.get_logger(__name__)


class WebhookDispatcher:
    """Delivers what is due. Safe to share between threads; `stopping` tells that no new message is to be begun."""

    def __init__(
        self,
        store: Store,
        objects: ObjectStorage,
        client: Client,
        settings: Settings,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.objects = objects
        self.client = client
        self.settings = settings
        self.stopping = stopping
        self._agent = f"tileq/{version('tileq')}"  # once: where tileq is not installed, nothing must begin

    def deliver_due(self, hint: str) -> int:
        """Deliver while something is due and there is time; return how many messages were tried.

        Nothing is lost where the store or the storage fails: the message is due again when its lease ends.
        """
        for tried in range(MOST_PER_HINT):
            if self.stopping():
                return tried
            try:
                claimed = time.monotonic()
                lease = self.settings.webhook_timeout + MARGIN
                delivery = self.store.run(deliveries.claim(hint, lease, self.settings.webhook_per_host))
                if delivery is None:
                    return tried
                with structlog.contextvars.bound_contextvars(msg=delivery.msg, subject=delivery.subject):
                    self._deliver(delivery, claimed)
            except QueueUnavailable as error:
                log.warning("the job store fails; the reconciler will repeat the hint", error=error.detail)
                return tried
        return MOST_PER_HINT

    def _deliver(self, delivery: Delivery, claimed: float) -> None:
        at = time.time()
        try:
            message = read_message(delivery, self.store, self.objects, self.settings)
            headers = self._headers(delivery, message, at)
            keyless = self._keyless(delivery.tenant)
        except (NotFound, ObjectMissing) as gone:
            log.error("nothing to deliver any more", error=gone.detail)
            self._record(delivery, Answer(error=gone.detail), Decision("failed", healthy=True), at, claimed)
            return
        except (StorageDown, QueueUnavailable) as error:
            self._put_back(delivery, error.detail, PUT_BACK)
            return
        except Exception:  # a record that can't be read must use its schedule up, not come back for ever
            log.exception("message can't be built")
            decision = replace(self._decide(delivery, Answer()), healthy=True)
            self._record(delivery, Answer(error="tileq could not build the message"), decision, at, claimed)
            return
        if time.monotonic() - claimed > READ_WITHIN:
            self._put_back(delivery, f"reading it took more than {READ_WITHIN:g} s", 0)
            return
        with SENDING.track_inprogress():
            answer = self.client.post(delivery.url, message.body.encode(), headers, keyless=keyless)
        self._record(delivery, answer, self._decide(delivery, answer), at, claimed)

    def _decide(self, delivery: Delivery, answer: Answer) -> Decision:
        return decide(
            tried=delivery.attempts_in_schedule,
            age=delivery.claimed - delivery.since,
            status=answer.status,
            retry_after=wait_asked(answer.retry_after, time.time()),
            once=delivery.single_shot,
            schedule=self.settings.webhook_schedule,
            jitter=random.random(),
        )

    def _put_back(self, delivery: Delivery, why: str, delay: float) -> None:
        log.warning("message put back untried", error=why)
        self.store.run(deliveries.release(delivery.msg, delivery.fence, delay))

    def _headers(self, delivery: Delivery, message: Message, now: float) -> dict[str, str]:
        fixed = self.settings.webhook_secret.get_secret_value() if delivery.tenant == KEYLESS else ""
        secrets = self.store.run(webhook_secrets.active_secrets(delivery.tenant, fixed))
        headers = {
            "content-type": "application/json",
            "user-agent": self._agent,
            **signing.headers(delivery.msg, message.body, secrets, now),
        }
        return headers | ({"traceparent": message.trace} if message.trace else {})

    def _keyless(self, tenant: str) -> bool:
        """Tell whether the service has no keys: a tenant that merely has the name may not call loopback."""
        if tenant != KEYLESS or self.settings.api_keys:
            return False
        _, known, _ = self.store.run(keys.get(""))
        return known == 0

    def _record(self, delivery: Delivery, answer: Answer, decision: Decision, at: float, claimed: float) -> None:
        """Write the attempt down, however long the store takes within the lease: what is not recorded is sent twice."""
        attempt = _entry(answer, decision, at)
        call = deliveries.finish(
            delivery.msg,
            delivery.fence,
            decision.outcome,
            delay=decision.delay,
            attempt=attempt,
            healthy=decision.healthy,
        )
        DELIVERIES.labels(decision.outcome).inc()
        SECONDS.observe(answer.seconds)
        log.info(
            "webhook " + decision.outcome,
            type=delivery.type,
            host=delivery.host,
            attempt=delivery.attempts + 1,
            status=answer.status,
            error=attempt["error"],
            seconds=attempt["seconds"],
            next_at=attempt["next_at"],
        )
        while True:
            try:
                if not self.store.run(call):
                    log.warning("another dispatcher holds the message, or it is gone; the attempt is not recorded")
                return
            except QueueUnavailable as error:
                if self.stopping() or time.monotonic() - claimed > self.settings.webhook_timeout + MARGIN:
                    raise
                log.warning("attempt not recorded yet", error=error.detail)
                time.sleep(0.5)


def _entry(answer: Answer, decision: Decision, at: float) -> dict[str, Any]:
    """Return the attempt as the API lists it."""
    error = answer.error
    if error is None and decision.outcome != "delivered":
        error = f"answered {answer.status}"
        if 300 <= (answer.status or 0) < 400:
            error += "; redirects are not followed"
        elif answer.status == 410:
            error += "; the receiver wants no more of it"
    return {
        "at": moment(at),
        "status": answer.status,
        "seconds": round(answer.seconds, 3),
        "error": error,
        "body": _printable(answer.body),
        "next_at": moment(time.time() + decision.delay) if decision.outcome == "again" else None,
    }


def _printable(body: bytes) -> str:
    text = body[: 4 * MOST_LOGGED].decode("utf-8", errors="replace")
    return "".join(character if character.isprintable() else " " for character in text)[:MOST_LOGGED]
