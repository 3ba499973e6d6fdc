"""Settings from the environment."""

import os
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from shared.environment import read_settings, service_links, unknown_variables
from shared.settings.base import SettingsError
from shared.settings.roles import IntakeSettings, ReconcilerSettings, VisionWorkerSettings


@pytest.fixture(autouse=True)
def _only_our_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TILEQ_")]:
        monkeypatch.delenv(name)


def test_the_environment_sets_fields_and_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_LEASE", "5")
    monkeypatch.setenv("TILEQ_WEBHOOK_SCHEDULE", "1, 2")
    monkeypatch.setenv("TILEQ_WEBHOOK_ALLOW", "10.0.0.0/8, fd00::/8,")
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


def missing(folder: Path) -> Path:
    return folder / "missing"


def not_a_file(folder: Path) -> Path:
    return folder


def not_text(folder: Path) -> Path:
    path = folder / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    return path


@pytest.mark.parametrize("make", [missing, not_a_file, not_text])
def test_a_mounted_file_that_cannot_be_read_is_named_with_its_variable(
    make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = make(tmp_path)
    monkeypatch.setenv("TILEQ_S3_SECRET_KEY_FILE", str(path))
    with pytest.raises(SettingsError, match=r"^TILEQ_S3_SECRET_KEY_FILE names .*, which cannot be read: ") as refused:
        read_settings()
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TILEQ_LEASE", "hunter2"), ("TILEQ_RETAIN_FOR", "1"), ("TILEQ_WEBHOOK_ALLOW", "hunter2"), ("TILEQ_PORT", "-7")],
)
def test_an_error_names_the_variable_and_holds_no_value_of_any_setting(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEQ_REDIS_URL", "redis://:hunter2@store:6379/0")
    monkeypatch.setenv("TILEQ_S3_SECRET_KEY", "hunter2hunter2")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable) as refused:
        read_settings()
    assert "hunter2" not in str(refused.value).replace("'hunter2' does not appear to be an IPv4 or IPv6 network", "")
    assert refused.value.__cause__ is None


def test_a_process_refuses_only_the_settings_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_DECODERS", "none")
    assert read_settings(ReconcilerSettings).lease == 30
    with pytest.raises(SettingsError, match="TILEQ_DECODERS"):
        read_settings(VisionWorkerSettings)


def test_a_former_name_sets_its_field_unless_the_present_name_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_KEEPER_PERIOD", "7")
    assert read_settings().reconcile_period == 7
    monkeypatch.setenv("TILEQ_RECONCILE_PERIOD", "3")
    assert read_settings().reconcile_period == 3


def test_variables_of_kubernetes_service_links_set_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_PORT", "tcp://10.96.0.7:8000")
    monkeypatch.setenv("TILEQ_METRICS_PORT", "tcp://10.96.0.8:9000")
    monkeypatch.setenv("TILEQ_SERVICE_HOST", "10.96.0.7")
    monkeypatch.setenv("TILEQ_SERVICE_PORT_HTTP", "8000")
    monkeypatch.setenv("TILEQ_PORT_8000_TCP_ADDR", "10.96.0.7")
    settings = read_settings(IntakeSettings)
    assert (settings.port, settings.metrics_port) == (8000, 0)
    assert set(service_links(IntakeSettings)) == {"TILEQ_PORT", "TILEQ_METRICS_PORT"}
    assert unknown_variables() == {}


def test_a_misspelt_variable_is_known_as_unknown_with_the_name_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_REDIS_ULR", "redis://store")
    monkeypatch.setenv("TILEQ_REDIS_URL_FILE", "/run/secrets/url")
    assert unknown_variables() == {"TILEQ_REDIS_ULR": "TILEQ_REDIS_URL"}


@pytest.mark.parametrize("value", ["inf", "nan", "0", "-1"])
@pytest.mark.parametrize(
    "name",
    [
        *("LEASE", "RETAIN_FOR", "REDIS_TIMEOUT", "BODY_TIMEOUT", "STALL"),
        *("MAX_IMAGES", "MAX_BODY_BYTES", "MAX_IMAGE_PIXELS", "DECODE_MEMORY", "WEBHOOK_PORTS"),
    ],
)
def test_what_could_never_work_is_refused_at_start(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TILEQ_{name}", value)
    with pytest.raises(SettingsError, match=f"TILEQ_{name}"):
        read_settings()


@pytest.mark.parametrize("value", ["-5", "5,nan", "inf"])
def test_so_is_a_schedule_that_never_comes(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TILEQ_WEBHOOK_SCHEDULE", value)
    with pytest.raises(SettingsError, match="TILEQ_WEBHOOK_SCHEDULE"):
        read_settings()
