"""One whole service for the acceptance tests; those that break it start their own."""

from collections.abc import Iterator

import httpx
import pytest
from PIL import Image

from tests.acceptance.client import Client
from tests.encoded import encoded
from tests.receiver import Receiver, receiver
from tests.service import Service, service


@pytest.fixture(scope="session")
def here() -> Iterator[Service]:
    """The service with the `echo` engine, slowed so that a running job can be seen running."""
    with service(vision=1) as running:
        yield running


@pytest.fixture
def api(here: Service) -> Iterator[Client]:
    """A client of the shared service."""
    with httpx.Client(base_url=here.url, timeout=60) as http:
        yield Client(http)


@pytest.fixture
def hook() -> Receiver:
    """A receiver, not listening yet."""
    return receiver()


def plain_png(width: int = 900, height: int = 600, colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    """Return a PNG of one colour."""
    return encoded(Image.new("RGB", (width, height), colour))
