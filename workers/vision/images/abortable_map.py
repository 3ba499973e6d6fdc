"""Work of one attempt on the threads of a pool, waited for by the job's own thread, which notices an abort."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")

ABORT_CHECK_INTERVAL_S = 0.1


class Abortable(Protocol):
    """An attempt of a job."""

    def check(self) -> None:
        """Raise if work on it is to stop."""


def abortable_map(
    pool: ThreadPoolExecutor, attempt: Abortable, function: Callable[[T], R], items: Sequence[T]
) -> list[R]:
    """Return what `function` returns of each item. Raises what it raises first, and what `attempt.check` raises."""
    futures = [pool.submit(function, item) for item in items]
    try:
        while wait(futures, ABORT_CHECK_INTERVAL_S, FIRST_EXCEPTION).not_done:
            attempt.check()
            for future in futures:
                if future.done():
                    future.result()  # raises before the others have ended
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()
