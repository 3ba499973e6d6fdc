"""Files of requests, in memory and on disk."""

import tempfile
from pathlib import Path

import pytest

from services.intake import uploads
from services.intake.uploads import Upload, refuse_unless_writable
from shared.settings.base import SettingsError
from tests.unit.intake.app_fixture import App, problem
from tests.unit.intake.image_files import picture


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """No temporary folder exists, as in a container whose root is read-only."""
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")


def test_what_was_written_is_read_back_and_hashed(tmp_path: Path) -> None:
    upload = Upload.of("image", b"abc")
    upload.write(bytes(2 << 20))
    upload.file.seek(0)
    assert (upload.file.read(3), upload.size, len(upload.sha256)) == (b"abc", 3 + (2 << 20), 64)


def test_a_full_or_missing_folder_is_overload_and_not_the_images_fault(
    intake: App, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_IN_MEMORY_BYTES", 1000)
    image = picture("BMP", (100, 100))
    answer = intake.submit("?", image)
    assert problem(answer, 503, "overloaded")["retryable"] is True
    assert answer.headers["retry-after"] == "5"


def test_a_missing_folder_is_refused_at_start(nowhere: None) -> None:
    with pytest.raises(SettingsError, match="TMPDIR"):
        refuse_unless_writable()


def test_a_folder_that_can_be_written_is_not() -> None:
    refuse_unless_writable()
