"""Settings."""

import json
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.logs import configure_logs
from shared.settings import Settings, read_settings


def test_the_environment_sets_fields_and_lists_come_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_LEASE", "5")
    monkeypatch.setenv("TILEQ_WEBHOOK_SCHEDULE", "1, 2")
    monkeypatch.setenv("TILEQ_WEBHOOK_ALLOW", "10.0.0.0/8, fd00::/8")
    monkeypatch.setenv("TILEQ_API_KEYS", "acme=tq_a,beta=tq_b")
    settings = read_settings()
    assert settings.lease == 5.0
    assert list(settings.webhook_schedule) == [1, 2]
    assert settings.webhook_allow == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert settings.api_keys == ("acme=tq_a", "beta=tq_b")


def test_a_mounted_file_sets_a_field(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_abc\n")
    monkeypatch.setenv("TILEQ_WEBHOOK_SECRET_FILE", str(tmp_path / "secret"))
    assert read_settings().webhook_secret.get_secret_value() == "whsec_abc"


def test_a_former_name_sets_its_field_unless_the_present_name_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_KEEPER_PERIOD", "7")
    assert read_settings().reconcile_period == 7
    monkeypatch.setenv("TILEQ_RECONCILE_PERIOD", "3")
    assert read_settings().reconcile_period == 3


def test_a_former_name_is_reported_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TILEQ_KEEPER_PERIOD", "7")
    configure_logs(read_settings(), "reconciler")
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], line["variable"]) == ("warning", "TILEQ_KEEPER_PERIOD")
    assert line["use"] == "TILEQ_RECONCILE_PERIOD"


def test_results_must_outlive_the_webhook_retries() -> None:
    with pytest.raises(ValidationError, match="TILEQ_RETAIN_FOR=100 is not longer than the webhook retry window"):
        Settings(retain_for=100)
    assert Settings(retain_for=100, webhook_schedule=(1, 2)).retain_for == 100


def test_broker_and_events_use_the_store_unless_told() -> None:
    settings = Settings(redis_url="redis://a", events_url="redis://b")
    assert (settings.broker, settings.events) == ("redis://a", "redis://b")


def test_every_setting_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
