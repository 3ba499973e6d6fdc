"""Tests of webhooks: one signed message that is sent at once, and its outcome, alike on every surface."""

import time

from services.intake.context import AppContext
from shared.deliveries import Delivery
from shared.store import deliveries
from shared.store.command import StoreCommand

TEST_WAIT_S = 20.0  #: for the outcome of a test; one attempt has `webhook_timeout`, 15


async def send_test(context: AppContext, msg: str, add: StoreCommand[int]) -> Delivery | None:
    """Return the test `msg`, which `add` creates, once it is sent, or as it is after `TEST_WAIT_S`."""
    await context.store.run(add)
    context.publisher.deliveries(msg)
    until = time.monotonic() + TEST_WAIT_S
    with context.changes.watch(msg) as subscription:
        while True:
            found = await context.store.run(deliveries.get([msg]))
            left = until - time.monotonic()
            if not found or found[0].state != "pending" or left <= 0 or subscription.closed:
                return found[0] if found else None
            await subscription.changed(left)
