"""The service that most tests use."""

from collections.abc import Iterator

import pytest

from tests.unit.intake.rooms import Room, room


@pytest.fixture
def intake() -> Iterator[Room]:
    """A service with the settings of tests."""
    with room() as opened:
        yield opened
