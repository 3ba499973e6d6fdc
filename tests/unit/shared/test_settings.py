"""The groups of settings, and what two of them must agree on."""

import pytest
from pydantic import ValidationError

from shared.settings.roles import GROUPS, Settings


def test_results_must_outlive_the_webhook_retries() -> None:
    with pytest.raises(ValidationError, match="TILEQ_RETAIN_FOR=100 is not longer than the webhook retry window"):
        Settings(retain_for=100)
    assert Settings(retain_for=100, webhook_schedule=(1, 2)).retain_for == 100


def test_broker_and_events_use_the_store_unless_set() -> None:
    settings = Settings(redis_url="redis://a", events_url="redis://b", redis_timeout=3)
    assert (settings.broker_endpoint.host, settings.events_endpoint.host) == ("a", "b")
    assert settings.broker_endpoint.timeout_s == 3


def test_every_setting_has_a_description_and_a_group() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
    grouped = {name for _, groups in GROUPS for group in groups for name in group.model_fields}
    assert grouped == set(Settings.model_fields)
