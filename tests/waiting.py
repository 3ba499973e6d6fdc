"""Waiting without sleeping blindly: poll until it holds, or fail at the deadline with what was seen last."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(look: Callable[[], T | None], within: float = 10.0, every: float = 0.02) -> T:
    """Return the first truthy `look()`; fail with the last falsy one when `within` seconds have passed."""
    deadline = time.monotonic() + within
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {within} s; last seen: {seen!r}")
        time.sleep(every)  # noqa: TID251  # the one place that sleeps
    return seen
