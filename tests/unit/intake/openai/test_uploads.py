"""`/v1/uploads` as OpenAI's own SDK calls it: parts, and the bytes put where `put_url` says."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from services.intake.schemas.uploads import MAX_PARTS
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


def test_what_is_larger_than_was_announced_is_deleted(sdk: OpenAI, intake: App) -> None:
    upload = begun(sdk)
    put(intake, upload, LINES * 100)
    assert "more than 57 bytes were sent" in str(refused(sdk, upload))
    assert "nothing was put" in str(refused(sdk, upload))


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


@pytest.mark.parametrize("settings", [{}, {"s3_public_url": "https://storage.example"}])
def test_the_sdk_uploads_a_file_in_parts(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(LINES)
    with running_app(**settings) as app:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=app.http, max_retries=0)
        md5 = hashlib.md5(LINES, usedforsecurity=False).hexdigest()
        done = sdk.uploads.upload_file_chunked(
            file=path, mime_type="text/jsonl", purpose="batch", part_size=len(LINES) // 4, md5=md5
        )
        assert (done.status, done.filename, done.bytes) == ("completed", "lines.jsonl", len(LINES))
        assert done.file is not None
        assert sdk.files.content(done.file.id).read() == LINES
        assert not list(app.objects.keys(f"{file_prefix(done.file.id)}sent"))


def test_the_order_of_the_parts_is_the_one_that_completes(sdk: OpenAI) -> None:
    upload = begun(sdk, b"first second")
    second, lost, first = (sdk.uploads.parts.create(upload.id, data=data) for data in (b"second", b"lost", b"first "))
    assert (first.object, first.upload_id, lost.created_at > 0) == ("upload.part", upload.id, True)
    file = sdk.uploads.complete(upload.id, part_ids=[first.id, second.id]).file
    assert file is not None
    assert sdk.files.content(file.id).read() == b"first second"
    with pytest.raises(openai.BadRequestError, match="was completed"):
        sdk.uploads.parts.create(upload.id, data=b"late")


@pytest.mark.parametrize(
    ("parts", "named", "param"),
    [
        ([LINES[:-1]], [0], "bytes"),
        ([LINES, b"x"], [0, 1], "bytes"),
        ([LINES], ["part_1"], "part_ids"),
        ([LINES], ["part_01m89rjy4gtm0bfyp5295m72kp4rhf36mkra"], "part_ids"),
        ([LINES], ["../sent"], "part_ids"),
        ([LINES], [], "part_ids"),
        ([LINES], [0] * (MAX_PARTS + 1), "part_ids"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_parts_that_do_not_make_the_file_make_none(
    sdk: OpenAI, parts: list[bytes], named: list[Any], param: str
) -> None:
    upload = begun(sdk)
    ids = [sdk.uploads.parts.create(upload.id, data=data).id for data in parts]
    with pytest.raises(openai.BadRequestError) as error:
        sdk.uploads.complete(upload.id, part_ids=[ids[n] if isinstance(n, int) else n for n in named])
    assert error.value.param == param
    assert list(sdk.files.list()) == []


def test_parts_of_another_upload_are_none_of_this_one(sdk: OpenAI) -> None:
    upload, other = begun(sdk), begun(sdk)
    part = sdk.uploads.parts.create(other.id, data=LINES)
    with pytest.raises(openai.BadRequestError, match="is no part of this upload"):
        sdk.uploads.complete(upload.id, part_ids=[part.id])


def test_parts_hold_no_more_than_twice_what_was_announced(sdk: OpenAI) -> None:
    upload = begun(sdk)
    first, _ = (sdk.uploads.parts.create(upload.id, data=LINES) for _ in range(2))  # the answer to one was lost
    with pytest.raises(openai.BadRequestError, match="complete it, or begin another one"):
        sdk.uploads.parts.create(upload.id, data=LINES)
    assert sdk.uploads.complete(upload.id, part_ids=[first.id]).status == "completed"


def test_a_part_is_no_larger_than_its_limit(sdk: OpenAI, intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.intake.openai.uploads.MAX_PART_BYTES", 10)
    upload = begun(sdk)
    with pytest.raises(openai.APIStatusError) as error:
        sdk.uploads.parts.create(upload.id, data=bytes(11))
    assert (error.value.status_code, error.value.code) == (413, "body_too_large")
    assert not list(intake.objects.keys(f"{file_prefix(f'file_{upload.id[7:]}')}sent"))


@pytest.mark.parametrize("form", [{"files": {"data": b""}}, {"files": {"file": b"x"}}])
def test_a_form_without_the_bytes_of_a_part_is_refused(sdk: OpenAI, intake: App, form: dict[str, Any]) -> None:
    answer = intake.http.post(f"/v1/uploads/{begun(sdk).id}/parts", **form)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_field")


def test_an_upload_expires(sdk: OpenAI, intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = begun(sdk)
    put(intake, upload)
    monkeypatch.setattr("services.intake.submission.pending_uploads.EXPIRES_S", -1)
    assert "expired" in str(refused(sdk, upload))
    with pytest.raises(openai.NotFoundError, match="expired"):
        sdk.uploads.parts.create(upload.id, data=LINES)


@pytest.mark.parametrize("id", ["upload_x", "file_1", "upload_01m89rjy4gtm0bfyp5295m72kp4rhf36mkra", "../etc"])
def test_an_unknown_upload_is_not_found(intake: App, id: str) -> None:
    assert intake.http.post(f"/v1/uploads/{id}/complete").status_code == 404
    assert intake.http.post(f"/v1/uploads/{id}/parts", files={"data": b"x"}).status_code == 404


def test_what_was_never_completed_is_deleted_by_the_reconciler_and_never_restored(sdk: OpenAI, intake: App) -> None:
    upload, kept = begun(sdk), begun(sdk)
    for one in (upload, kept):
        put(intake, one)
    sdk.uploads.parts.create(upload.id, data=LINES)
    sdk.uploads.complete(kept.id, part_ids=[])
    assert recover_files(intake.store, intake.objects, upload.created_at) == 0
    assert sweep_files(intake.store, intake.objects, upload.created_at + UPLOAD_MAX_S + 60) == 1
    assert list(intake.objects.keys(file_prefix(f"file_{upload.id[7:]}"))) == []
    assert len(list(sdk.files.list())) == 1
