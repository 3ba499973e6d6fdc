"""How the S3 client gets in: keys, roles, private authorities, shared buckets, and permissions that are denied."""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import minio.api
import pytest

from services.cli.local.seaweed import S3
from shared.errors import StorageDown
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings
from tests.certificates import Authority
from tests.s3_stub import Request, S3Stub, refusal, role_credentials, s3_stub, takes_everything

pytestmark = pytest.mark.integration

KEYS = {"s3_access_key": "KEY", "s3_secret_key": "secret"}


@pytest.fixture(autouse=True)
def _no_account_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE",
                 "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def put_into(stub: S3Stub, **settings: str) -> Request:
    """Put one object; return the request that the stub got."""
    S3Storage(Settings.model_validate({"s3_url": stub.url, **settings})).put("jobs/x", b"x", "text/plain")
    return stub.requests[-1]


def signer(request: Request) -> tuple[str, str | None]:
    """Return the access key that signed `request`, "" for none, and its session token."""
    credential = request.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
    return credential, request.headers.get("X-Amz-Security-Token")


def test_a_session_token_goes_with_its_keys() -> None:
    with s3_stub() as stub:
        assert signer(put_into(stub, **KEYS, s3_session_token="token")) == ("KEY", "token")
        assert signer(put_into(stub, **KEYS)) == ("KEY", None)


DATA = b"data of which the digest is known"
DIGEST = hashlib.sha256(DATA).hexdigest()


def put_with(stub: S3Stub, sha256: str, **settings: str) -> Request:
    storage = S3Storage(Settings.model_validate({"s3_url": stub.url, **settings}))
    storage.put("jobs/x", io.BytesIO(DATA), "text/plain", len(DATA), sha256)
    return stub.requests[-1]


def test_a_digest_that_is_known_is_signed_instead_of_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(body: bytes | None) -> str:
        assert body != DATA
        return hashlib.sha256(body or b"").hexdigest()

    with s3_stub() as stub:
        plain = put_with(stub, "", **KEYS)
        monkeypatch.setattr(minio.api, "sha256_hash", compute)
        known = put_with(stub, DIGEST, **KEYS)
    for request in (plain, known):
        assert (request.headers["x-amz-content-sha256"], request.body) == (DIGEST, DATA)
        assert "x-amz-content-sha256" in request.headers["Authorization"]


def test_a_payload_goes_unsigned_by_tls_alone(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    with s3_stub(tls=authority.server_context("s3")) as stub:
        request = put_with(stub, DIGEST, **KEYS, s3_ca_file=authority.ca_file)
    assert request.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert request.headers["Content-MD5"]


def test_as_many_connections_stay_open_as_are_asked_for() -> None:
    storage = S3Storage(Settings.model_validate({"s3_url": "http://127.0.0.1:1"}), 7)
    pool = storage.client._http.connection_from_url("http://127.0.0.1:1").pool
    assert pool is not None
    assert pool.maxsize == 7


def test_without_keys_the_variables_of_aws_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "env-token")
    with s3_stub() as stub:
        assert signer(put_into(stub)) == ("ENVKEY", "env-token")
        assert signer(put_into(stub, **KEYS)) == ("KEY", None)


def test_a_pod_with_a_web_identity_gets_the_keys_of_its_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("jwt")
    with s3_stub(role_credentials) as sts, s3_stub() as stub:
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
        monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/tileq")
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", sts.url)
        assert signer(put_into(stub)) == ("ROLEKEY", "role-token")
    asked = sts.requests[0].path + sts.requests[0].body.decode()
    assert "AssumeRoleWithWebIdentity" in asked
    assert "jwt" in asked


def test_a_task_with_container_credentials_gets_the_keys_of_its_role(monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_stub(role_credentials) as agent, s3_stub() as stub:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod")
        assert signer(put_into(stub)) == ("ROLEKEY", "role-token")
    assert agent.requests[0].headers["Authorization"] == "pod"


def test_a_role_that_gives_no_keys_is_named_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(request: Request) -> tuple[int, Mapping[str, str], bytes]:
        return 403, {}, b"no"

    with s3_stub(denied) as agent, s3_stub() as stub:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{agent.url}/v1/credentials")
        with pytest.raises(StorageDown, match="no credentials for S3 from the role of this process"):
            put_into(stub)
    assert stub.requests == []


def test_without_any_keys_nothing_is_signed() -> None:
    with s3_stub() as stub:
        assert signer(put_into(stub)) == ("", None)


def test_a_private_authority_is_trusted_where_it_is_set(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "ca")
    with s3_stub(tls=authority.server_context("s3")) as stub:
        assert put_into(stub, **KEYS, s3_ca_file=authority.ca_file).method == "PUT"
        stub.requests.clear()
        with pytest.raises(StorageDown, match="certificate verify failed"):
            put_into(stub, **KEYS)
        assert stub.requests == []


def test_two_prefixes_share_a_bucket_and_see_only_their_own_keys(s3: S3) -> None:
    where = {"s3_url": s3.url, "s3_access_key": s3.access_key, "s3_secret_key": s3.secret_key, "s3_bucket": s3.bucket}
    one, other, whole = (
        S3Storage(Settings.model_validate({**where, "s3_prefix": prefix})) for prefix in ("team/one", "team/other", "")
    )
    one.put("jobs/a", b"one", "text/plain")
    one.put("jobs/b", b"one", "text/plain")
    other.put("jobs/a", b"other", "text/plain")
    assert (one.get("jobs/a"), other.get("jobs/a")) == (b"one", b"other")
    assert list(one.keys("jobs/")) == ["jobs/a", "jobs/b"]
    assert list(whole.keys("team/")) == ["team/one/jobs/a", "team/one/jobs/b", "team/other/jobs/a"]
    assert one.delete("jobs/") == 2
    assert other.get("jobs/a") == b"other"
    assert whole.delete("team/") == 1


def test_a_denied_look_at_the_bucket_is_no_outage() -> None:
    def denies_head(request: Request) -> tuple[int, Mapping[str, str], bytes]:
        return refusal(403, "AccessDenied") if request.method == "HEAD" else takes_everything(request)

    with s3_stub(denies_head) as stub:
        S3Storage(Settings.model_validate({"s3_url": stub.url, **KEYS})).check()
    assert [request.path for request in stub.requests] == ["/tileq/health/probe"]


def test_a_denied_write_is_an_outage_although_the_bucket_is_seen() -> None:
    def denies_put(request: Request) -> tuple[int, Mapping[str, str], bytes]:
        return refusal(403, "AccessDenied") if request.method == "PUT" else takes_everything(request)

    with s3_stub(denies_put) as stub:
        storage = S3Storage(Settings.model_validate({"s3_url": stub.url, **KEYS}))
        with pytest.raises(StorageDown, match="PUT health/probe in bucket tileq with AccessDenied"):
            storage.check()


def test_a_bucket_that_is_missing_and_may_not_be_made_is_named() -> None:
    def without_bucket(request: Request) -> tuple[int, Mapping[str, str], bytes]:
        missing = request.path.startswith("/tileq/health")
        return refusal(404, "NoSuchBucket") if missing else refusal(403, "AccessDenied")

    with s3_stub(without_bucket) as stub:
        storage = S3Storage(Settings.model_validate({"s3_url": stub.url, **KEYS}))
        with pytest.raises(StorageDown, match="has no bucket tileq and did not make it: AccessDenied"):
            storage.check()
