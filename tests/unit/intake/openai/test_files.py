"""`/v1/files` as OpenAI's own SDK calls it."""

import hashlib
import io
from typing import Any

import openai
import pytest
from openai import OpenAI

from services.intake.openai import files as routes
from shared.errors import StorageDown
from shared.files import content_key, record_key
from shared.object_writers import PART_BYTES, MemoryWriter
from shared.storage import MemoryStorage
from shared.store import files, transitions
from tests.unit.intake.app_fixture import App, running_app
from tests.unit.intake.image_files import picture
from tests.waiting import eventually

LINES = b'{"custom_id": "a"}\n' * 3


def created(sdk: OpenAI, data: bytes = LINES, **asked: Any) -> Any:
    return sdk.files.create(file=("lines.jsonl", data), purpose=asked.pop("purpose", "batch"), **asked)


def test_what_is_uploaded_is_described_listed_downloaded_and_deleted(sdk: OpenAI) -> None:
    file = created(sdk)
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(LINES), "lines.jsonl", "batch")
    assert (file.status, file.expires_at - file.created_at) == ("processed", 30 * 86_400)
    assert file.sha256 == hashlib.sha256(LINES).hexdigest()
    assert sdk.files.retrieve(file.id) == file
    assert list(sdk.files.list()) == [file]
    assert sdk.files.content(file.id).read() == LINES
    deleted = sdk.files.delete(file.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (file.id, True, "file")
    assert list(sdk.files.list()) == []
    for call in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)


def test_nothing_of_a_deleted_file_stays_in_object_storage(sdk: OpenAI, intake: App) -> None:
    sdk.files.delete(created(sdk).id)
    assert list(intake.objects.keys("files/")) == []
    assert intake.store.run(transitions.list_trash()) == []


def test_pages_follow_each_other_in_both_orders_and_by_purpose(sdk: OpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_PAGE", 2)
    made = [created(sdk, purpose=purpose).id for purpose in ("batch", "user_data", "batch", "batch", "user_data")]
    assert [file.id for file in sdk.files.list()] == made[::-1]
    assert [file.id for file in sdk.files.list(order="asc", limit=1)] == made
    assert [file.id for file in sdk.files.list(purpose="batch")] == [made[3], made[2], made[0]]
    page = sdk.files.list(after=made[2])
    assert ([file.id for file in page.data], page.has_more) == ([made[1], made[0]], False)


def test_a_cursor_that_is_no_file_is_refused(sdk: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="`after` is not a file id"):
        sdk.files.list(after="job_1")


def test_an_expiry_is_kept_and_a_file_past_it_is_unknown(sdk: OpenAI, intake: App) -> None:
    file = created(sdk, expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.expires_at - file.created_at == 3600
    intake.store.client.hset(f"tileq:file:{file.id}", "expires", "1")
    assert list(sdk.files.list()) == []
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(file.id)


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"purpose": "fine-tune"}, "purpose", "unsupported_parameter"),
        ({"expires_after": {"anchor": "created_at", "seconds": 60}}, "expires_after.seconds", "invalid_field"),
        ({"expires_after": {"anchor": "now", "seconds": 3600}}, "expires_after.anchor", "invalid_field"),
        ({"data": b""}, "file", "invalid_field"),
        ({"extra_body": {"colour": "red"}}, "colour", "invalid_field"),
    ],
)
def test_what_is_not_served_is_refused_and_leaves_nothing(
    sdk: OpenAI, intake: App, asked: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        created(sdk, **asked)
    assert (refused.value.param, refused.value.code) == (param, code)
    eventually(lambda: not list(intake.objects.keys("files/")))


def test_a_body_without_a_file_is_refused(intake: App) -> None:
    answer = intake.http.post("/v1/files", data={"purpose": "batch"}, files={"image": b"x"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    assert intake.http.post("/v1/files", json={"purpose": "batch"}).status_code == 415


@pytest.mark.parametrize("data", [b"hello", LINES, picture("PNG")[:3]])
def test_a_file_for_vision_must_be_an_image_by_its_content(sdk: OpenAI, intake: App, data: bytes) -> None:
    with pytest.raises(openai.APIStatusError, match="no image by its content") as refused:
        created(sdk, data, purpose="vision")
    assert (refused.value.status_code, refused.value.code) == (400, "unsupported_image_type")
    eventually(lambda: not list(intake.objects.keys("files/")))


def test_a_larger_file_than_its_purpose_allows_is_refused() -> None:
    with running_app(max_file_bytes=3000, max_image_bytes=1000) as app:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=app.http, max_retries=0)
        for data, purpose, code in (
            (bytes(3001), "batch", "body_too_large"),
            (bytes(3001), "user_data", "body_too_large"),
            (bytes(1001), "vision", "image_too_large"),
        ):
            with pytest.raises(openai.APIStatusError) as refused:
                created(sdk, data, purpose=purpose)
            assert (refused.value.status_code, refused.value.code) == (413, code)
        assert created(sdk, bytes(3000)).bytes == 3000
        eventually(lambda: len(list(app.objects.keys("files/"))) == 2)


def test_a_file_is_stored_part_by_part_while_it_arrives(intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = MemoryWriter.write

    def observed(writer: MemoryWriter, data: bytes) -> None:
        written.append(len(data))
        write(writer, data)

    monkeypatch.setattr(MemoryWriter, "write", observed)
    chunk, chunks = bytes(64 << 10), 2 * PART_BYTES // (64 << 10)

    async def arrive() -> None:
        upload = intake.context.files.begin("local")
        for _ in range(chunks):
            upload.write(chunk)
            await upload.drain()

    intake.call(arrive)
    assert written == [PART_BYTES, PART_BYTES]


def test_a_download_comes_in_ranges(sdk: OpenAI, intake: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.intake.submission.file_store.RANGE_BYTES", 7)
    lengths: list[int] = []
    get_range = intake.objects.get_range

    def observed(key: str, start: int, length: int) -> bytes:
        lengths.append(length)
        return get_range(key, start, length)

    monkeypatch.setattr(intake.objects, "get_range", observed)
    file = created(sdk)
    assert sdk.files.content(file.id).read() == LINES
    assert set(lengths) == {7}


def test_content_that_is_gone_is_a_404(sdk: OpenAI, intake: App) -> None:
    file = created(sdk)
    intake.objects.delete(content_key(file.id))
    with pytest.raises(openai.NotFoundError, match="no longer stored"):
        sdk.files.content(file.id)


def test_the_idempotency_key_of_a_repeated_upload_makes_one_file(sdk: OpenAI, intake: App) -> None:
    key = {"Idempotency-Key": "k1"}
    first, again = created(sdk, extra_headers=key), created(sdk, extra_headers=key)
    assert first.id == again.id
    eventually(lambda: len(list(intake.objects.keys("files/"))) == 2)
    with pytest.raises(openai.BadRequestError) as refused:
        created(sdk, b"other", extra_headers=key)
    assert refused.value.code == "idempotency_mismatch"
    sdk.files.delete(first.id)
    assert created(sdk, extra_headers=key).id != first.id


def test_files_count_against_the_bytes_of_their_tenant_and_not_against_queued_jobs() -> None:
    with running_app(limit_bytes=100, limit_queued=1) as app:
        sdk = OpenAI(base_url="http://127.0.0.1/v1", api_key="EMPTY", http_client=app.http, max_retries=0)
        app.accepted()  # the one job that may wait
        created(sdk, bytes(60))
        with pytest.raises(openai.RateLimitError) as refused:
            created(sdk, bytes(60))
        assert refused.value.code == "quota_exceeded"
        eventually(lambda: len(list(app.objects.keys("files/"))) == 2)
        created(sdk, bytes(40))
        with pytest.raises(openai.RateLimitError):
            created(sdk, bytes(1))


def test_an_upload_that_the_storage_does_not_take_is_a_503_and_no_file(sdk: OpenAI, intake: App) -> None:
    def down(*_: object, **__: object) -> None:
        raise StorageDown("down")

    intake.objects.put = down  # type: ignore[method-assign]
    with pytest.raises(openai.APIStatusError) as refused:
        created(sdk)
    assert (refused.value.status_code, refused.value.code) == (503, "storage_unavailable")
    assert intake.store.run(files.list_files("local", limit=10)) == ([], False)


def test_an_image_may_be_uploaded_from_an_open_file(sdk: OpenAI) -> None:
    file = sdk.files.create(file=io.BytesIO(picture("PNG")), purpose="vision")
    assert (file.purpose, file.expires_at) == ("vision", None)


def test_the_record_lies_beside_the_content(sdk: OpenAI, intake: App) -> None:
    file = created(sdk)
    assert sorted(intake.objects.keys("files/")) == [content_key(file.id), record_key(file.id)]
    assert isinstance(intake.objects, MemoryStorage)


def asked_about(sdk: OpenAI, file_id: str, **more: Any) -> Any:
    image = {"type": "input_image", "file_id": file_id, "detail": "low"}
    content = [image, {"type": "input_text", "text": "What is this?"}]
    return sdk.responses.create(input=[{"role": "user", "content": content}], background=True, **more)  # type: ignore[misc,list-item]


def test_a_response_is_asked_about_a_file_and_keeps_its_own_copy(sdk: OpenAI, intake: App) -> None:
    data = picture("PNG")
    file = created(sdk, data, purpose="vision")
    response = asked_about(sdk, file.id)
    sdk.files.delete(file.id)
    job = response.id.replace("resp_", "job_")
    [image] = intake.job(job).images
    assert (image.media_type, image.sha256) == ("image/png", hashlib.sha256(data).hexdigest())
    assert intake.http.get(f"/v1/jobs/{job}/images/0").content == data


def test_a_native_job_is_asked_about_a_file(sdk: OpenAI, intake: App) -> None:
    file = created(sdk, picture("PNG"), purpose="user_data")
    id = intake.accepted(images=[{"file_id": file.id}])
    assert intake.http.get(f"/v1/jobs/{id}/images/0").content == picture("PNG")
    answer = intake.submit(images=[{"file_id": f"file_{'0' * 36}"}])
    assert (answer.status_code, answer.json()["code"], answer.json()["image"]) == (422, "unknown_file", 0)
    answer = intake.submit(images=[{"file": file.id}])
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")


@pytest.mark.parametrize("id", ["nothing", f"file_{'0' * 36}"])
def test_a_file_that_is_unknown_is_named_by_its_parameter(sdk: OpenAI, id: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        asked_about(sdk, id)
    assert (refused.value.code, refused.value.param) == ("unknown_file", "input.0.content.0")


def test_a_file_that_is_no_image_is_refused_as_an_upload_is(sdk: OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        asked_about(sdk, created(sdk, LINES).id)
    assert (refused.value.status_code, refused.value.code) == (400, "unsupported_image_type")


def test_the_same_key_with_another_file_is_another_request(sdk: OpenAI) -> None:
    first, second = created(sdk, picture("PNG")), created(sdk, picture("PNG"))
    key = {"Idempotency-Key": "k"}
    assert asked_about(sdk, first.id, extra_headers=key).id == asked_about(sdk, first.id, extra_headers=key).id
    with pytest.raises(openai.BadRequestError) as refused:
        asked_about(sdk, second.id, extra_headers=key)
    assert refused.value.code == "idempotency_mismatch"
