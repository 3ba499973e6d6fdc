"""Delivery of due webhooks: claim ── build ── sign ── send ── decide ── record, until none is due."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import structlog
from prometheus_client import Counter, Gauge, Histogram

from shared.deliveries import Delivery
from shared.encryption import DecryptionFailed
from shared.errors import NotFound, ObjectMissing, QueueUnavailable, StorageDown
from shared.keys import KEYLESS
from shared.settings.roles import WebhooksSettings
from shared.storage import ObjectStorage
from shared.store import deliveries, endpoints, keys
from shared.store import secrets as webhook_secrets
from shared.store.client import Store
from shared.store.command import StoreCommand
from shared.webhooks import signing
from shared.webhooks.endpoint import WebhookEndpoint
from workers.webhooks.attempt import attempt_record
from workers.webhooks.client import DeliveryResponse, WebhookClient
from workers.webhooks.payload import WebhookMessage, build_message, read_subject
from workers.webhooks.schedule import Decision, decide, parse_retry_after

#: Added to the attempt's timeout for a lease: time to build the message before it and to record it after.
LEASE_MARGIN_S = 15.0
#: Of the margin, the part for building; sent later than that, another dispatcher might send at the same time.
BUILD_TIMEOUT_S = 8.0
#: Messages delivered on one hint; then the thread is free for another hint.
MAX_PER_HINT = 50
#: Before a message that could not be built is claimed again.
RELEASE_DELAY_S = 5.0
#: Before a message whose secrets can't be decrypted is claimed again.
DECRYPTION_RETRY_DELAY_S = 60.0
#: Between two tries to record an attempt.
RECORD_RETRY_DELAY_S = 0.5
#: A first attempt of `job.started` after the job's end is made only within this time.
SUPERSEDED_MAX_AGE_S = 10.0

ATTEMPTS = Counter("tileq_webhook_attempts_total", "Delivery attempts by outcome", ["outcome"])
ATTEMPT_SECONDS = Histogram(
    "tileq_webhook_attempt_duration_seconds",
    "Duration of a delivery attempt",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15),
)
IN_FLIGHT = Gauge("tileq_webhook_attempts_in_flight", "Delivery attempts under way")
UNDECRYPTABLE = Counter(
    "tileq_webhook_undecryptable_total", "Deliveries put off since TILEQ_SECRETS_KEY lacks the key of their secrets"
)
log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _WebhookRequest:
    """What is sent for a message."""

    delivery: Delivery  #: with the receiver's headers, decrypted
    message: WebhookMessage
    headers: dict[str, str]
    keyless: bool  #: whether it may go to loopback


class _EndpointMoved(Exception):
    """The endpoint of a message has another URL than the message."""

    def __init__(self, endpoint: WebhookEndpoint) -> None:
        super().__init__(endpoint.url)
        self.endpoint = endpoint


class WebhookDispatcher:
    """Delivers due webhooks. Safe to share between threads; once `stopping` is true it claims no more."""

    def __init__(
        self,
        store: Store,
        objects: ObjectStorage,
        client: WebhookClient,
        settings: WebhooksSettings,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.store = store
        self.objects = objects
        self.client = client
        self.settings = settings
        self.stopping = stopping
        self._keyring = settings.keyring
        self._agent = f"tileq/{version('tileq')}"  # fails at start where tileq is not installed

    def deliver_due(self, hint: str) -> int:
        """Deliver due messages, at most `MAX_PER_HINT`; return how many were claimed.

        Where the store or the object storage fails nothing is lost: the message is due again when its lease ends.
        """
        for claims in range(MAX_PER_HINT):
            if self.stopping():
                return claims
            try:
                claimed = time.monotonic()
                lease = self.settings.webhook_timeout + LEASE_MARGIN_S
                delivery = self.store.run(deliveries.claim(hint, lease, self.settings.webhook_per_host))
                if delivery is None:
                    return claims
                with structlog.contextvars.bound_contextvars(msg=delivery.msg, subject=delivery.subject):
                    self._deliver(delivery, claimed)
            except QueueUnavailable as error:
                log.warning("job store failed; the reconciler will repeat the hint", error=error.detail)
                return claims
        return MAX_PER_HINT

    def _deliver(self, delivery: Delivery, claimed: float) -> None:
        at = time.time()
        request = self._built(delivery, at, claimed)
        if request is None:
            return
        if request.message.superseded and _is_late(delivery):
            self._fail(request.delivery, "not sent: the job has ended since", at, claimed)
        elif time.monotonic() - claimed > BUILD_TIMEOUT_S:
            self._release(delivery, f"building it took more than {BUILD_TIMEOUT_S:g} s", 0)
        else:
            response = self._post(request)
            self._record(request.delivery, response, self._decide(delivery, response), at, claimed)

    def _built(self, delivery: Delivery, at: float, claimed: float) -> "_WebhookRequest | None":
        """Return what is to be sent, or None where the message was released or its attempt recorded without it."""
        try:
            return self._build(delivery, at)
        except _EndpointMoved as moved:
            self._redirect(delivery, moved.endpoint)
        except (NotFound, ObjectMissing) as undeliverable:
            log.warning("webhook not sent", error=undeliverable.detail)
            self._fail(delivery, undeliverable.detail, at, claimed)
        except (StorageDown, QueueUnavailable) as error:
            self._release(delivery, error.detail, RELEASE_DELAY_S)
        except DecryptionFailed as error:  # an operator's mistake, so it costs the message no attempt
            UNDECRYPTABLE.inc()
            self._release(delivery, error.detail, DECRYPTION_RETRY_DELAY_S, code="secrets_key_missing")
        except Exception:  # an unreadable record must use up its schedule instead of being retried for ever
            log.exception("webhook message could not be built")
            decision = replace(self._decide(delivery, DeliveryResponse()), healthy=True)
            self._record(delivery, DeliveryResponse(error="tileq could not build the message"), decision, at, claimed)
        return None

    def _build(self, delivery: Delivery, at: float) -> "_WebhookRequest":
        subject, found, keyless = self._read(delivery)
        if isinstance(found, WebhookEndpoint):
            if found.url != delivery.url:
                raise _EndpointMoved(found)
            secrets = [self._keyring.decrypt(one, "webhook-secret", delivery.tenant) for one in found.secrets]
            delivery = replace(delivery, headers=found.headers)
        else:
            secrets = found
        delivery = replace(delivery, headers=self._keyring.decrypt_headers(delivery.headers, delivery.tenant))
        message = build_message(delivery, subject, self.objects, self.settings)
        return _WebhookRequest(delivery, message, self._headers(delivery, message, secrets, at), keyless)

    def _post(self, request: "_WebhookRequest") -> DeliveryResponse:
        with IN_FLIGHT.track_inprogress():
            return self.client.post(
                request.delivery.url, request.message.body.encode(), request.headers, keyless=request.keyless
            )

    def _fail(self, delivery: Delivery, reason: str, at: float, claimed: float) -> None:
        """Record that a message is never sent, which tells nothing of its receiver."""
        self._record(delivery, DeliveryResponse(error=reason), Decision("failed", healthy=True), at, claimed)

    def _decide(self, delivery: Delivery, response: DeliveryResponse) -> Decision:
        return decide(
            attempts_in_schedule=delivery.attempts_in_schedule,
            age=delivery.claimed - delivery.since,
            status=response.status,
            retry_after=parse_retry_after(response.retry_after, time.time()),
            single_shot=delivery.single_shot,
            schedule=self.settings.webhook_schedule,
            jitter=random.random(),
        )

    def _release(self, delivery: Delivery, reason: str, delay: float, *, code: str | None = None) -> None:
        log.warning("webhook released without an attempt", error=reason, **({"code": code} if code else {}))
        self.store.run(deliveries.release(delivery.msg, delivery.fence, delay))

    def _redirect(self, delivery: Delivery, endpoint: WebhookEndpoint) -> None:
        """Put a message to an endpoint whose URL was changed behind those to its new host."""
        log.info("webhook goes to the new URL of its endpoint", endpoint=endpoint.id, host=endpoint.host)
        self.store.run(deliveries.release(delivery.msg, delivery.fence, 0, endpoint.url, endpoint.host))

    def _read(self, delivery: Delivery) -> tuple[Any, list[str] | WebhookEndpoint, bool]:
        """Return the subject, the secrets or the endpoint, and whether the service has no keys, from one round trip.

        Raises `NotFound` where the endpoint was deleted.

        A tenant that merely has the keyless name may not reach loopback.
        """
        fixed = self.settings.webhook_secret.get_secret_value() if delivery.tenant == KEYLESS else ""
        signers: StoreCommand[Any] = webhook_secrets.active_secrets(delivery.tenant, fixed, self._keyring)
        if delivery.endpoint:
            signers = endpoints.get(delivery.tenant, delivery.endpoint)
        subject, found, stored = self.store.run_together((read_subject(delivery), signers, keys.count_keys()))
        if found is None:
            raise NotFound(f"the webhook endpoint {delivery.endpoint} was deleted")
        return subject, found, delivery.tenant == KEYLESS and not self.settings.api_keys and stored == 0

    def _headers(
        self, delivery: Delivery, message: WebhookMessage, secrets: Sequence[str], now: float
    ) -> dict[str, str]:
        headers = {
            **delivery.headers,
            "content-type": "application/json",
            "user-agent": self._agent,
            **signing.headers(delivery.msg, message.body, secrets, now),
        }
        return headers | ({"traceparent": message.trace} if message.trace else {})

    def _record(
        self, delivery: Delivery, response: DeliveryResponse, decision: Decision, at: float, claimed: float
    ) -> None:
        """Record the attempt, retrying until the lease ends: an attempt that is not recorded is sent twice."""
        attempt = attempt_record(delivery, response, decision, at)
        call = deliveries.finish(
            delivery.msg,
            delivery.fence,
            decision.outcome,
            delay=decision.delay,
            attempt=attempt,
            healthy=decision.healthy,
        )
        ATTEMPTS.labels(decision.outcome).inc()
        ATTEMPT_SECONDS.observe(response.seconds)
        log.info(
            "webhook attempt",
            outcome=decision.outcome,
            type=delivery.type,
            host=delivery.host,
            attempt=delivery.attempts + 1,
            status=response.status,
            error=attempt["error"],
            seconds=attempt["seconds"],
            next_at=attempt["next_at"],
        )
        while True:
            try:
                if not self.store.run(call):
                    log.warning("attempt not recorded: another dispatcher holds the message, or it was deleted")
                return
            except QueueUnavailable as error:
                if self.stopping() or time.monotonic() - claimed > self.settings.webhook_timeout + LEASE_MARGIN_S:
                    raise
                log.warning("attempt not recorded yet, retrying", error=error.detail)
                time.sleep(RECORD_RETRY_DELAY_S)


def _is_late(delivery: Delivery) -> bool:
    """Return whether a message that its job has overtaken is no news: in a retry, or after a long wait for its turn."""
    return delivery.attempts_in_schedule > 0 or delivery.claimed - delivery.since > SUPERSEDED_MAX_AGE_S
