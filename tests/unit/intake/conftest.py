"""The service that most tests use."""

from collections.abc import Iterator

import pytest
import structlog

from tests.unit.intake.app_fixture import App, running_app


@pytest.fixture
def intake() -> Iterator[App]:
    """A service with the settings of tests."""
    with running_app() as opened:
        yield opened


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> Iterator[None]:
    """Log lines go nowhere but to those tests that capture them."""
    structlog.configure(logger_factory=structlog.testing.CapturingLoggerFactory())
    yield
    structlog.reset_defaults()
