"""A worker with running threads."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.unit.vision.worker_fixture import WorkerFixture


@pytest.fixture
def build() -> Iterator[Callable[..., WorkerFixture]]:
    """Return a factory of workers, which are closed after the test."""
    with ExitStack() as stack:

        def make(**parts: Any) -> WorkerFixture:
            return stack.enter_context(WorkerFixture(**parts).open())

        yield make


@pytest.fixture
def worker(build: Callable[..., WorkerFixture]) -> WorkerFixture:
    return build()
