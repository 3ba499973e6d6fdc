"""When the subscription to new deliveries wakes the dispatcher."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError
from structlog.testing import capture_logs

from shared.events import deliveries_channel
from shared.store.client import Store, memory_store
from tests.waiting import eventually
from workers.webhooks import subscription as module
from workers.webhooks.subscription import LOST, DueSubscription


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)
    monkeypatch.setattr(module, "RESUBSCRIBE_DELAY_S", 0.01)


@contextmanager
def subscribed(store: Any, wake: Callable[[], object]) -> Iterator[None]:
    stop = threading.Event()
    thread = DueSubscription(store, wake, stop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def publish(store: Store) -> int:
    return int(store.client.publish(deliveries_channel(store.prefix), "msg_x"))


def test_it_wakes_once_subscribed_and_for_each_delivery() -> None:
    store, wakes = memory_store(), list[int]()
    with subscribed(store, lambda: wakes.append(1)):
        eventually(lambda: len(wakes) == 1)
        assert publish(store) == 1
        eventually(lambda: len(wakes) == 2)


def test_a_lost_subscription_is_counted_and_made_again_with_a_wake() -> None:
    store, wakes = memory_store(), list[int]()
    failures = [ConnectionError("gone"), ConnectionError("still gone")]

    def pubsub() -> object:
        if failures:
            raise failures.pop(0)
        return store.client.pubsub()  # type: ignore[no-untyped-call]

    client = SimpleNamespace(pubsub=pubsub)
    before = LOST._value.get()
    with (
        capture_logs() as logs,
        subscribed(SimpleNamespace(client=client, prefix=store.prefix), lambda: wakes.append(1)),
    ):
        eventually(lambda: wakes)
    assert LOST._value.get() - before == 2
    assert [entry["error"] for entry in logs] == ["gone", "still gone"]


def test_it_ends_when_told_to_stop() -> None:
    store = memory_store()
    with subscribed(store, lambda: None):
        eventually(lambda: publish(store) == 1)
    assert publish(store) == 0
