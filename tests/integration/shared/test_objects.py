"""Object storage, over the double and a real S3 server."""

import hashlib
import io
from typing import Any

import httpx
import pytest

from services.cli.local.seaweed import S3
from shared import s3_storage
from shared.connections.s3_client import DIGEST_HEADER, MAX_SINGLE_PUT_BYTES
from shared.errors import ObjectMissing, StorageDown
from shared.ids import new_id
from shared.object_writers import PART_BYTES
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings
from shared.storage import MemoryStorage, ObjectStorage


def s3_settings(server: S3, **changes: object) -> Settings:
    where = {"s3_url": server.url, "s3_access_key": server.access_key, "s3_secret_key": server.secret_key}
    return Settings.model_validate({**where, "s3_bucket": server.bucket, **changes})


@pytest.fixture(params=["memory", "s3"])
def objects(request: pytest.FixtureRequest) -> ObjectStorage:
    return MemoryStorage() if request.param == "memory" else S3Storage(s3_settings(request.getfixturevalue("s3")))


@pytest.fixture
def place() -> str:
    """A prefix of this test's own."""
    return f"jobs/{new_id('job')}/"


def test_what_is_put_is_got_whether_bytes_or_a_stream(objects: ObjectStorage, place: str) -> None:
    data = bytes(range(256)) * 1000
    objects.put(f"{place}a", data, "image/png")
    stream = io.BytesIO(data)
    stream.seek(100)  # where a reader left it must not matter
    objects.put(f"{place}b", stream, "image/png", len(data))
    assert objects.get(f"{place}a") == objects.get(f"{place}b") == data


def test_data_with_the_digest_that_was_told_are_stored(objects: ObjectStorage, place: str) -> None:
    data = b"x" * 1000
    told = hashlib.sha256(data).hexdigest()
    objects.put(f"{place}a", data, "image/png", sha256=told)
    objects.put(f"{place}b", io.BytesIO(data), "image/png", len(data), told)
    assert objects.get(f"{place}a") == objects.get(f"{place}b") == data


def test_the_double_refuses_data_with_another_digest_as_aws_does(place: str) -> None:
    objects = MemoryStorage()
    with pytest.raises(StorageDown, match="SHA-256"):
        objects.put(f"{place}a", b"x", "image/png", sha256=hashlib.sha256(b"y").hexdigest())
    with pytest.raises(ObjectMissing):
        objects.get(f"{place}a")


def test_who_has_a_presigned_url_puts_that_object_alone_and_only_for_its_time(s3: S3, place: str) -> None:
    objects = S3Storage(s3_settings(s3, s3_public_url=s3.url))
    url = objects.presigned_put(f"{place}a", 60)
    assert httpx.put(url, content=b"sent").status_code == 200
    assert objects.get(f"{place}a") == b"sent"
    assert httpx.put(url.replace(f"{place}a", f"{place}b"), content=b"x").status_code == 403
    assert httpx.get(url).status_code == 403
    assert httpx.put(url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), content=b"x").status_code == 403
    with pytest.raises(StorageDown, match="TILEQ_S3_PUBLIC_URL"):
        S3Storage(s3_settings(s3)).presigned_put(f"{place}a", 60)


def test_a_digest_that_is_changed_on_the_way_is_refused(s3: S3, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = S3Storage(s3_settings(s3))
    pool = objects.client._http
    send = pool.urlopen

    def change(method: str, url: str, **options: Any) -> Any:
        options["headers"][DIGEST_HEADER] = hashlib.sha256(b"y").hexdigest()
        return send(method, url, **options)

    monkeypatch.setattr(pool, "urlopen", change)
    with pytest.raises(StorageDown, match="SignatureDoesNotMatch"):
        objects.put(f"{place}a", b"x", "image/png", sha256=hashlib.sha256(b"x").hexdigest())
    monkeypatch.undo()
    with pytest.raises(ObjectMissing):
        objects.get(f"{place}a")


def test_an_object_of_several_parts_is_stored_under_the_digest_of_the_whole(objects: ObjectStorage, place: str) -> None:
    data = bytes(MAX_SINGLE_PUT_BYTES + 1)
    objects.put(f"{place}a", data, "image/png", sha256=hashlib.sha256(data).hexdigest())
    assert objects.get(f"{place}a") == data


def test_the_later_put_wins(objects: ObjectStorage, place: str) -> None:
    objects.put(f"{place}a", b"one", "text/plain")
    objects.put(f"{place}a", b"two", "text/plain")
    assert objects.get(f"{place}a") == b"two"


def test_a_missing_object_is_named(objects: ObjectStorage, place: str) -> None:
    with pytest.raises(ObjectMissing, match=f"{place}none"):
        objects.get(f"{place}none")
    with pytest.raises(ObjectMissing, match=f"{place}none"):
        objects.get(f"{place}none", 10)


def test_a_range_ends_with_the_object(objects: ObjectStorage, place: str) -> None:
    objects.put(f"{place}a", b"0123456789", "text/plain")
    assert objects.get_range(f"{place}a", 0, 4) == b"0123"
    assert objects.get_range(f"{place}a", 8, 4) == b"89"
    assert objects.get_range(f"{place}a", 10, 4) == b""
    with pytest.raises(ObjectMissing):
        objects.get_range(f"{place}none", 0, 4)


@pytest.mark.parametrize("size", [0, 10, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES + 5])
def test_what_is_written_piece_by_piece_is_there_once_it_is_closed(
    objects: ObjectStorage, place: str, size: int
) -> None:
    data = (bytes(range(251)) * (size // 251 + 1))[:size]
    writer = objects.writer(f"{place}a", "text/plain")
    for start in range(0, size, 1 << 20):
        writer.write(data[start : start + (1 << 20)])
    assert list(objects.keys(place)) == []
    writer.close()
    assert objects.get(f"{place}a") == data


def test_what_is_written_and_aborted_leaves_nothing(s3: S3, place: str) -> None:
    objects = S3Storage(s3_settings(s3))
    writer = objects.writer(f"{place}a", "text/plain")
    writer.write(bytes(PART_BYTES + 1))
    writer.abort()
    assert list(objects.keys(place)) == []
    assert not objects.client._list_multipart_uploads(objects.bucket, prefix=place).uploads


@pytest.mark.parametrize(("size", "expected"), [(1, b"o"), (3, b"one"), (1000, b"one")])
def test_the_start_of_an_object_is_got(objects: ObjectStorage, place: str, size: int, expected: bytes) -> None:
    objects.put(f"{place}a", b"one", "text/plain")
    assert objects.get(f"{place}a", size) == expected


def test_keys_are_listed_in_order_and_deleted_by_prefix(objects: ObjectStorage, place: str) -> None:
    for name, data in (("b", b"xy"), ("a", b""), ("c/d", b"xyz")):
        objects.put(f"{place}{name}", data, "text/plain")
    assert list(objects.keys(place)) == [f"{place}a", f"{place}b", f"{place}c/d"]
    assert list(objects.sizes(place)) == [0, 2, 3]
    assert objects.delete(place) == 3
    assert objects.delete(place) == 0
    assert list(objects.keys(place)) == []


@pytest.mark.parametrize("page_keys", [1, 2, 3, 5])
def test_more_keys_than_one_page_holds_are_all_listed(
    objects: ObjectStorage, place: str, page_keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_storage, "PAGE_KEYS", page_keys)
    names = [f"{place}{name}" for name in ("a", "b/c", "b/d", "e")]
    for name in names:
        objects.put(name, b"x", "text/plain")
    assert list(objects.keys(place)) == names


def test_checking_makes_the_bucket_once(s3: S3) -> None:
    fresh = S3Storage(s3_settings(s3, s3_bucket=new_id("bucket").replace("_", "-")))
    fresh.check()
    fresh.check()
    fresh.put("a", b"x", "text/plain")
    assert fresh.get("a") == b"x"


def test_a_wrong_key_or_a_dead_server_is_said_to_be_down(s3: S3) -> None:
    with pytest.raises(StorageDown, match="PUT a"):
        S3Storage(s3_settings(s3, s3_secret_key="wrong")).put("a", b"x", "text/plain")
    with pytest.raises(StorageDown, match="did not answer"):
        S3Storage(s3_settings(s3, s3_url="http://127.0.0.1:1")).get("a")
    with pytest.raises(StorageDown, match="did not answer LIST"):
        list(S3Storage(s3_settings(s3, s3_url="http://127.0.0.1:1")).keys("jobs/"))
