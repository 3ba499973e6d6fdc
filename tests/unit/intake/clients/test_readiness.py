"""/readyz names what is down, and a POST is refused exactly while it does."""

import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from services.intake.clients import readiness
from services.intake.clients.temporary_files import check_temporary_files
from shared.errors import StorageDown
from shared.storage import PROBE_KEY, MemoryStorage
from tests.unit.intake.app_fixture import App, problem, running_app
from tests.unit.intake.image_files import picture
from tests.waiting import eventually

LARGE = picture("BMP", (800, 600))  # 1.4 MB: it goes to the disk while it arrives


@pytest.fixture(autouse=True)
def _checks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "CACHE_TTL_S", 0.0)
    monkeypatch.setattr(readiness, "PERIOD_S", 0.02)
    monkeypatch.setattr(readiness, "RETRY_S", 3600.0)  # back by the requests' own checks alone


class BreakableStorage(MemoryStorage):
    """Takes no object while `down`."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False

    def put(self, key: str, data: bytes | BinaryIO, media_type: str, size: int | None = None, sha256: str = "") -> None:
        """See `ObjectStorage.put`."""
        if self.down:
            raise StorageDown("the object storage answered PUT with AccessDenied")
        super().put(key, data, media_type, size, sha256)

    def check(self) -> None:
        """See `ObjectStorage.check`."""
        self.put(PROBE_KEY, b"probe", "text/plain")


def reasons(app: App) -> dict[str, str]:
    """Return what /readyz says is down."""
    answer = app.http.get("/readyz")
    body: dict[str, Any] = answer.json()
    down = {name: str(state["reason"]) for name, state in body["dependencies"].items() if not state["up"]}
    assert (answer.status_code, body["status"]) == ((503, "unready") if down else (200, "ready"))
    return down


def refused_until_up(app: App, name: str, reason: str, status_code: int, code: str) -> None:
    """Hold /readyz and POST to one another."""
    eventually(lambda: reasons(app).keys() == {name})
    assert reason in reasons(app)[name]
    body = problem(app.submit(), status_code, code)
    assert "nothing was accepted" in body["detail"] or code == "overloaded"
    assert "10.0.0.7" not in body["detail"]
    assert app.objects.delete("jobs/") == 0


def test_every_dependency_of_a_submission_is_named() -> None:
    with running_app() as app:
        assert app.http.get("/readyz").json()["dependencies"].keys() == {
            "redis",
            "broker",
            "storage",
            "temporary_files",
        }
        assert app.submit().status_code == 202


def test_a_broker_that_takes_no_message_refuses_submissions_until_it_does() -> None:
    with running_app() as app:
        app.hints.down = "CROSSSLOT at 10.0.0.7:6379"
        refused_until_up(app, "broker", "takes no messages: CROSSSLOT", 503, "queue_unavailable")
        app.hints.down = ""
        assert app.submit().status_code == 202


def test_a_storage_that_takes_no_object_refuses_submissions_until_it_does() -> None:
    storage = BreakableStorage()
    with running_app(storage) as app:
        storage.down = True
        refused_until_up(app, "storage", "AccessDenied", 503, "storage_unavailable")
        storage.down = False
        assert app.submit().status_code == 202


def test_a_store_that_takes_no_writes_refuses_submissions() -> None:
    with running_app() as app:
        app.server.connected = False
        eventually(lambda: "redis" in reasons(app))
        problem(app.submit(), 503, "queue_unavailable")
        app.server.connected = True
        assert app.submit().status_code == 202


def test_a_missing_temporary_folder_is_named_and_an_upload_is_refused_as_overload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_app() as app:
        assert app.submit("?", LARGE).status_code == 202
        app.objects.delete("jobs/")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        refused_until_up(app, "temporary_files", "set TMPDIR to a folder with room", 503, "overloaded")
        problem(app.submit("?", LARGE), 503, "overloaded")


def test_a_folder_without_room_for_one_image_is_named_with_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    full = os.statvfs_result((512, 512, 0, 0, 4096, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda _: full)
    reason = check_temporary_files(20 << 20)
    assert reason is not None
    assert "has 2097152 bytes free, and one image may have 20971520" in reason
    assert check_temporary_files(1 << 20) is None
