"""Finding the service of this machine, and settings that are wrong."""

import os
from pathlib import Path

import pytest

from services.cli.environment import data_folder, settings, use_local_service, write_environment
from services.cli.errors import CommandError, UsageError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("TILEQ_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in ("TILEQ_REDIS_URL", "TILEQ_S3_URL"):  # so that what `use_local_service` sets is undone
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def service_in(folder: Path) -> Path:
    (folder / "run").mkdir(parents=True)
    write_environment(folder, {"TILEQ_REDIS_URL": "redis://127.0.0.1:7/0", "TILEQ_S3_URL": "http://127.0.0.1:8"})
    return folder


def test_the_usual_folder_follows_the_desktop_standard(tmp_path: Path) -> None:
    assert data_folder(None) == tmp_path / "tileq"
    assert data_folder(Path("~/x")) == Path.home() / "x"


def test_the_service_of_the_usual_folder_is_joined(tmp_path: Path) -> None:
    folder = service_in(tmp_path / "tileq")
    assert use_local_service(None) == folder
    assert settings().redis_url == "redis://127.0.0.1:7/0"


def test_a_store_that_the_shell_names_goes_before_the_usual_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = service_in(tmp_path / "tileq")
    monkeypatch.setenv("TILEQ_REDIS_URL", "redis://store.test:6379/0")
    assert use_local_service(None) is None
    assert settings().redis_url == "redis://store.test:6379/0"
    assert use_local_service(folder) == folder
    assert settings().redis_url == "redis://127.0.0.1:7/0"


def test_nothing_of_another_service_reaches_the_joined_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = service_in(tmp_path / "tileq")
    for name in ("TILEQ_REDIS_CA_FILE", "TILEQ_S3_SESSION_TOKEN", "TILEQ_S3_PREFIX", "TILEQ_BROKER_URL_FILE"):
        monkeypatch.setenv(name, "of-another-service")
    monkeypatch.setenv("TILEQ_REDIS_PREFIX", "mine:")
    assert use_local_service(folder) == folder
    found = settings()
    assert (found.redis_ca_file, found.s3_prefix, found.redis_prefix) == ("", "", "mine:")


def test_a_folder_without_a_service_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no `tileq up` runs in"):
        use_local_service(tmp_path / "empty")
    assert use_local_service(None) is None


def test_a_wrong_setting_is_named_and_its_value_kept_to_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_LEASE", "s3cret")
    with pytest.raises(UsageError, match="TILEQ_LEASE: ") as caught:
        settings()
    assert "s3cret" not in str(caught.value)
    monkeypatch.delenv("TILEQ_LEASE")
    monkeypatch.setenv("TILEQ_WEBHOOK_SECRET_FILE", "/does/not/exist")
    with pytest.raises(UsageError, match="cannot be read"):
        settings()
