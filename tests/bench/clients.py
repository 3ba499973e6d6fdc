"""Clients that work through numbered jobs side by side, each in a thread of its own."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

C = TypeVar("C")


def hand_out(numbers: Iterable[int], clients: Sequence[C], act: Callable[[C, int], object]) -> float:
    """Hand each number to whichever client is free, for `act(client, number)`; return the seconds that all took."""
    left, lock = iter(numbers), threading.Lock()

    def next_number() -> int | None:
        with lock:
            return next(left, None)

    def work(client: C) -> None:
        while (number := next_number()) is not None:
            act(client, number)

    began = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(work, clients))
    return time.perf_counter() - began
