"""OpenAI's own SDK against the service of the tests, in this process."""

import pytest
from openai import OpenAI

from tests.unit.intake.app_fixture import App


@pytest.fixture
def sdk(intake: App) -> OpenAI:
    """The SDK as a backend sets it up, on the test client, and without pauses between its retries."""
    return OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=intake.http, max_retries=0)
