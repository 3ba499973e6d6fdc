"""A house whose threads run."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.unit.vision_worker.house import House


@pytest.fixture
def build() -> Iterator[Callable[..., House]]:
    """Open a house; it is closed after the test."""
    with ExitStack() as stack:

        def make(**parts: Any) -> House:
            return stack.enter_context(House(**parts).open())

        yield make


@pytest.fixture
def house(build: Callable[..., House]) -> House:
    return build()
