"""`/v1/uploads` as OpenAI's own SDK calls it, and the bytes put where `put_url` says."""

import hashlib
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from shared.files import content_key, file_prefix
from shared.object_writers import PART_BYTES
from tests.unit.intake.app_fixture import App, running_app
from tests.unit.intake.image_files import picture
from workers.reconciler.recover_files import UPLOAD_MAX_S, recover_files, sweep_files

LINES = b'{"custom_id": "a"}\n' * 3


@pytest.fixture
def intake() -> Iterator[App]:
    with running_app(s3_public_url="https://storage.example") as opened:
        yield opened


def begun(sdk: OpenAI, data: bytes = LINES, **asked: Any) -> Any:
    given: dict[str, Any] = {"filename": "lines.jsonl", "purpose": "batch", "bytes": len(data)}
    return sdk.uploads.create(**given | {"mime_type": "text/jsonl"} | asked)


def put(intake: App, upload: Any, data: bytes = LINES) -> None:
    """Put bytes where the upload says, as its client does."""
    path, _, query = upload.put_url.removeprefix("https://storage.example/").partition("?")
    assert query == "expires=3600"
    intake.objects.put(path, data, "")


def refused(sdk: OpenAI, upload: Any, **asked: Any) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as error:
        sdk.uploads.complete(upload.id, part_ids=[], **asked)
    return error.value


def test_what_was_put_becomes_a_file(sdk: OpenAI, intake: App) -> None:
    upload = begun(sdk, expires_after={"anchor": "created_at", "seconds": 7200})
    assert (upload.object, upload.status, upload.bytes, upload.file) == ("upload", "pending", len(LINES), None)
    assert upload.expires_at == upload.created_at + 3600
    put(intake, upload)
    done = sdk.uploads.complete(upload.id, part_ids=[], md5=hashlib.md5(LINES, usedforsecurity=False).hexdigest())
    assert (done.status, done.to_dict()["put_url"]) == ("completed", None)
    file = sdk.files.retrieve(done.file.id) if done.file else None
    assert file == done.file
    assert file is not None
    assert (file.filename, file.bytes, file.expires_at) == ("lines.jsonl", len(LINES), file.created_at + 7200)
    assert file.to_dict()["sha256"] == hashlib.sha256(LINES).hexdigest()
    assert sdk.files.content(file.id).read() == LINES


def test_what_is_put_afterwards_changes_nothing(sdk: OpenAI, intake: App) -> None:
    upload = begun(sdk)
    put(intake, upload)
    file = sdk.uploads.complete(upload.id, part_ids=[]).file
    put(intake, upload, b"x" * len(LINES))
    assert sdk.uploads.complete(upload.id, part_ids=[]).file == file
    assert file is not None
    assert sdk.files.content(file.id).read() == LINES
    sdk.files.delete(file.id)
    assert list(intake.objects.keys("files/")) == []


def test_a_large_upload_is_copied_in_parts_and_counted(intake: App, sdk: OpenAI) -> None:
    data = bytes(2 * PART_BYTES + 1)
    upload = begun(sdk, data, purpose="user_data")
    put(intake, upload, data)
    done = sdk.uploads.complete(upload.id, part_ids=[])
    assert done.file is not None
    assert done.file.bytes == len(data)
    assert intake.objects.get(content_key(done.file.id)) == data


@pytest.mark.parametrize(
    ("data", "announced", "param"),
    [
        (LINES[:-1], {}, "bytes"),
        (LINES + b"x", {}, "bytes"),
        (b"", {}, "bytes"),
        (b"x" * len(LINES), {"sha256": hashlib.sha256(LINES).hexdigest()}, "sha256"),
        (LINES, {"md5": "0" * 32}, "md5"),
    ],
)
def test_other_bytes_than_were_announced_become_no_file(
    sdk: OpenAI, intake: App, data: bytes, announced: dict[str, str], param: str
) -> None:
    md5 = announced.pop("md5", openai.omit)
    upload = begun(sdk, extra_body=announced)
    put(intake, upload, data)
    error = refused(sdk, upload, md5=md5)
    assert (error.status_code, error.code, error.param) == (400, "invalid_field", param)
    assert list(sdk.files.list()) == []
    assert not list(intake.objects.keys(content_key(f"file_{upload.id[7:]}")))


def test_an_upload_that_was_refused_can_be_put_again(sdk: OpenAI, intake: App) -> None:
    upload = begun(sdk)
    assert "nothing was put" in str(refused(sdk, upload))
    put(intake, upload, b"x")
    refused(sdk, upload)
    put(intake, upload)
    assert sdk.uploads.complete(upload.id, part_ids=[]).status == "completed"


def test_parts_are_refused_with_what_to_do_instead(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="parts are not served; put the whole file to `put_url`"):
        sdk.uploads.complete(begun(sdk).id, part_ids=["part_1"])


def test_a_file_for_vision_must_be_an_image_by_its_content(sdk: OpenAI, intake: App) -> None:
    upload = begun(sdk, purpose="vision")
    put(intake, upload)
    assert refused(sdk, upload).code == "unsupported_image_type"
    png = picture("PNG")
    upload = begun(sdk, png, purpose="vision")
    put(intake, upload, png)
    done = sdk.uploads.complete(upload.id, part_ids=[])
    assert done.file is not None
    assert intake.submit("?", images=[{"file_id": done.file.id}]).status_code == 202


@pytest.mark.parametrize(
    ("purpose", "limit", "code"),
    [("vision", "max_image_bytes", "image_too_large"), ("batch", "max_file_bytes", "body_too_large")],
)
def test_a_file_that_is_announced_too_large_gets_no_url(purpose: str, limit: str, code: str) -> None:
    settings: dict[str, Any] = {"s3_public_url": "https://storage.example", limit: 10}
    with running_app(**settings) as app:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=app.http, max_retries=0)
        with pytest.raises(openai.APIStatusError) as error:
            begun(sdk, purpose=purpose)
        assert (error.value.status_code, error.value.code) == (413, code)


def test_without_a_public_address_uploads_are_off() -> None:
    with running_app() as app:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=app.http, max_retries=0)
        with pytest.raises(openai.BadRequestError) as error:
            begun(sdk)
        assert error.value.code == "uploads_disabled"


def test_parts_are_refused(sdk: OpenAI, intake: App) -> None:
    upload = begun(sdk)
    put(intake, upload)
    with pytest.raises(openai.BadRequestError) as error:
        sdk.uploads.complete(upload.id, part_ids=["part_1"])
    assert error.value.param == "part_ids"


def test_a_cancelled_upload_is_gone_and_a_completed_one_is_not_cancelled(sdk: OpenAI, intake: App) -> None:
    upload, kept = begun(sdk), begun(sdk)
    put(intake, upload)
    put(intake, kept)
    assert sdk.uploads.cancel(upload.id).status == "cancelled"
    assert list(intake.objects.keys(file_prefix(f"file_{upload.id[7:]}"))) == []
    assert refused(sdk, upload).status_code == 404
    sdk.uploads.complete(kept.id, part_ids=[])
    with pytest.raises(openai.BadRequestError, match="delete the file instead"):
        sdk.uploads.cancel(kept.id)


def test_an_upload_expires(sdk: OpenAI, intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begun(sdk)
    put(intake, upload)
    monkeypatch.setattr("services.intake.submission.pending_uploads.URL_EXPIRES_S", -1)
    assert "expired" in str(refused(sdk, upload))


@pytest.mark.parametrize("id", ["upload_x", "file_1", "upload_01m89rjy4gtm0bfyp5295m72kp4rhf36mkra", "../etc"])
def test_an_unknown_upload_is_not_found(intake: App, id: str) -> None:
    assert intake.http.post(f"/v1/uploads/{id}/complete").status_code == 404


def test_what_was_never_completed_is_deleted_by_the_reconciler_and_never_restored(sdk: OpenAI, intake: App) -> None:
    upload, kept = begun(sdk), begun(sdk)
    for one in (upload, kept):
        put(intake, one)
    sdk.uploads.complete(kept.id, part_ids=[])
    assert recover_files(intake.store, intake.objects, upload.created_at) == 0
    assert sweep_files(intake.store, intake.objects, upload.created_at + UPLOAD_MAX_S + 60) == 1
    assert list(intake.objects.keys(file_prefix(f"file_{upload.id[7:]}"))) == []
    assert len(list(sdk.files.list())) == 1
