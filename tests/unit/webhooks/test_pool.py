"""How wakes and hints reach the threads that deliver."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from structlog.testing import capture_logs

from tests.waiting import eventually
from workers.webhooks.dispatcher import MAX_PER_HINT
from workers.webhooks.pool import DeliveryPool


class Deliveries:
    """Counts calls, and holds each until `release` is set."""

    def __init__(self) -> None:
        self.hints: list[str] = []
        self.release = threading.Event()
        self.claims = 0  #: what each call returns

    def __call__(self, hint: str) -> int:
        self.hints.append(hint)
        assert self.release.wait(10)
        return self.claims


@contextmanager
def closed_at_the_end(deliver: Callable[[str], int], threads: int) -> Iterator[DeliveryPool]:
    pool = DeliveryPool(deliver, threads)
    try:
        yield pool
    finally:
        pool.close()


def test_as_many_wakes_wait_as_there_are_threads() -> None:
    deliveries = Deliveries()
    with closed_at_the_end(deliveries, 2) as pool:
        for _ in range(2):
            pool.wake()
        eventually(lambda: len(deliveries.hints) == 2)
        for _ in range(50):
            pool.wake()
        deliveries.release.set()
    assert deliveries.hints == [""] * 4


def test_a_wake_during_a_claim_is_followed_by_another_claim() -> None:
    deliveries = Deliveries()
    with closed_at_the_end(deliveries, 1) as pool:
        pool.wake()
        eventually(lambda: deliveries.hints)
        pool.wake()
        deliveries.release.set()
    assert len(deliveries.hints) == 2


def test_hints_and_wakes_share_the_threads() -> None:
    deliveries = Deliveries()
    with closed_at_the_end(deliveries, 1) as pool:
        pool.wake()
        eventually(lambda: deliveries.hints)
        hint = threading.Thread(target=pool.run, args=("msg_x",))
        hint.start()
        assert deliveries.hints == [""]
        deliveries.release.set()
        hint.join()
    assert deliveries.hints == ["", "msg_x"]


def test_a_thread_that_delivered_its_share_lets_another_go_on() -> None:
    deliveries = Deliveries()
    deliveries.release.set()
    deliveries.claims = MAX_PER_HINT
    pool = DeliveryPool(deliveries, 1)
    pool.wake()
    eventually(lambda: len(deliveries.hints) > 3)
    pool.close()


def test_a_closed_pool_begins_nothing() -> None:
    deliveries = Deliveries()
    pool = DeliveryPool(deliveries, 1)
    pool.close()
    pool.wake()
    assert deliveries.hints == []


def test_an_error_of_a_delivery_is_logged_and_the_next_wake_followed() -> None:
    seen: list[str] = []

    def deliver(hint: str) -> int:
        seen.append(hint)
        raise ValueError("broken")

    with capture_logs() as logs, closed_at_the_end(deliver, 1) as pool:
        pool.wake()
        eventually(lambda: len(seen) == 1 and logs)
        pool.wake()
        eventually(lambda: len(seen) == 2)
    assert logs[0]["event"] == "deliveries interrupted"
