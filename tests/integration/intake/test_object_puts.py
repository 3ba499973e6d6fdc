"""Small objects that intake stores on its event loop, against an HTTP server that stands in for S3."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from services.intake.clients.object_puts import ObjectPuts
from services.intake.clients.storage import MAX_LOOP_BYTES, Storage
from services.intake.uploads import Upload
from shared.errors import StorageUnavailable
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings
from tests.certificates import Authority
from tests.s3_stub import Request, S3Stub, refusal, role_credentials, s3_stub

pytestmark = pytest.mark.integration

KEYS: dict[str, Any] = {"s3_access_key": "KEY", "s3_secret_key": "secret"}
LARGE = bytes(MAX_LOOP_BYTES)


def store(stub: S3Stub, data: bytes = b"image", times: int = 1, **settings: Any) -> None:
    """Store archives that hold `data`, one after the other."""
    read = Settings.model_validate({"s3_url": stub.url, **settings})

    async def put() -> None:
        storage = Storage(S3Storage(read), ObjectPuts(read, connections=2))
        try:
            for n in range(times):
                await storage.put_archive(f"job_{n}", b"{}", {"image-0": Upload.of("image", data)})
        finally:
            await storage.close()

    asyncio.run(put())


def test_the_request_is_the_one_that_minio_sends_for_a_large_object() -> None:
    with s3_stub() as stub:
        store(stub, **KEYS, s3_prefix="team/it's")
        store(stub, LARGE, **KEYS, s3_prefix="team/it's")
    small, large = stub.requests
    assert (small.method, small.path) == (large.method, large.path)
    assert small.headers.keys() == large.headers.keys() - {"Accept-Encoding"}
    assert all(request.headers["Content-Length"] == str(len(request.body)) for request in stub.requests)
    signed = [request.headers["Authorization"].partition(", Signature=")[0] for request in stub.requests]
    assert signed[0] == signed[1]
    assert b"image" in small.body


def test_a_small_object_is_stored_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a thread stored the object")

    monkeypatch.setattr(S3Storage, "put", refuse)
    with s3_stub() as stub:
        store(stub, times=3, **KEYS)
    assert [request.path.split("/")[3] for request in stub.requests] == ["job_0", "job_1", "job_2"]


def test_what_is_refused_at_first_is_stored_by_another_request() -> None:
    def answer(request: Request) -> tuple[int, dict[str, str], bytes]:
        return (503, {}, b"") if len(stub.requests) == 1 else (200, {"ETag": '"0"'}, b"")

    with s3_stub(answer) as stub:
        store(stub, **KEYS)
    first, second = stub.requests
    assert first.body == second.body


def test_what_is_refused_for_good_is_told_with_its_reason() -> None:
    with (
        s3_stub(lambda request: refusal(403, "AccessDenied")) as stub,
        pytest.raises(StorageUnavailable) as caught,
    ):
        store(stub, **KEYS)
    assert "AccessDenied" in str(caught.value.__cause__)


def test_a_server_that_is_gone_is_unavailable() -> None:
    with s3_stub() as stub:
        pass
    with pytest.raises(StorageUnavailable):
        store(stub, **KEYS)


def test_a_redirection_is_not_followed() -> None:
    with s3_stub() as other, s3_stub(lambda request: (307, {"Location": other.url}, b"")) as stub:
        with pytest.raises(StorageUnavailable):
            store(stub, **KEYS)
        assert other.requests == []


def test_the_authorities_that_are_set_are_trusted_and_no_others(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    with s3_stub(tls=authority.server_context("s3")) as stub:
        store(stub, **KEYS, s3_ca_file=authority.ca_file)
        (request,) = stub.requests
        assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
        assert request.headers["Content-MD5"]
        with pytest.raises(StorageUnavailable):
            store(stub, **KEYS)
        assert stub.requests == [request]


def test_the_keys_of_a_role_are_fetched_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with s3_stub(role_credentials) as agent, s3_stub() as stub:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
        monkeypatch.setattr(ObjectPuts, "send", None)
        store(stub)
    assert "ROLEKEY" in stub.requests[0].headers["Authorization"]
