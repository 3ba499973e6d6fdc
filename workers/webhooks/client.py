"""Sends one webhook POST over a guarded connection (`shared.outbound.connection`), and reads little of the response."""

import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from shared.errors import WebhookRefused
from shared.outbound.connection import (
    FAILURES,
    TIMEOUTS,
    Deadline,
    Dial,
    Egress,
    exchange,
    failure_text,
    tls_context,
)
from shared.outbound.ssrf import Lookup, check_url
from shared.settings.webhooks import WebhookSettings
from shared.webhooks.url_policy import webhook_policy

#: Of the response body. The status decides; the body is only for the log of attempts.
MAX_BODY_BYTES = 4 << 10
#: Of the whole response, interim responses and headers included (h11 accepts headers of 100 KiB).
MAX_READ_BYTES = 192 << 10
#: Waiting for the response body, once the status is known.
BODY_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class DeliveryResponse:
    """Result of an attempt: a status, or the `error` that prevented one."""

    status: int | None = None
    retry_after: str = ""
    body: bytes = b""
    error: str | None = None
    seconds: float = 0


class WebhookClient:
    """Posts webhooks; safe to share between threads. Tests replace `lookup`, `dial` and `tls`."""

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        lookup: Lookup | None = None,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._egress = Egress(
            tls or tls_context(settings.webhook_ca_file),
            settings.webhook_proxy_endpoint,
            settings.webhook_proxy_by_name,
            lookup,
            dial,
        )

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, keyless: bool) -> DeliveryResponse:
        """Send once and return the response, or the error of the receiver, its name or its network; raises neither."""
        begun = time.monotonic()
        try:
            answer = self._exchange(url, body, headers, keyless, Deadline(begun + self._settings.webhook_timeout))
        except WebhookRefused as refused:
            answer = DeliveryResponse(error=refused.detail)
        except TIMEOUTS:
            answer = DeliveryResponse(error=f"no response within {self._settings.webhook_timeout:g} s")
        except FAILURES as error:
            answer = DeliveryResponse(error=failure_text(error))
        return replace(answer, seconds=time.monotonic() - begun)

    def _exchange(
        self, url: str, body: bytes, headers: Mapping[str, str], keyless: bool, deadline: Deadline
    ) -> DeliveryResponse:
        policy = webhook_policy(self._settings, keyless)
        target = check_url(url, policy)
        with exchange(
            self._egress,
            policy,
            target,
            deadline,
            method="POST",
            headers=headers,
            body=body,
            max_read_bytes=MAX_READ_BYTES,
        ) as response:
            named = {name.lower(): value for name, value in response.headers}
            deadline.shorten(BODY_TIMEOUT_S)
            return DeliveryResponse(
                status=response.status,
                retry_after=named.get(b"retry-after", b"").decode("latin-1"),
                body=_first_bytes(response.iter_stream()),
            )


def _first_bytes(chunks: Iterable[bytes]) -> bytes:
    """Return the first bytes of a body, as far as they were received: the status is known already."""
    received = b""
    try:
        for chunk in chunks:
            received += chunk
            if len(received) >= MAX_BODY_BYTES:
                break
    except (*FAILURES, *TIMEOUTS):
        pass
    return received[:MAX_BODY_BYTES]
