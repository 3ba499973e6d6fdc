"""What an S3 URL, bucket and prefix may say, and what is said of those that cannot be honoured."""

import pytest
from pydantic import ValidationError

from shared.connections.s3_endpoint import S3Endpoint, normal_prefix, parse_s3_url
from shared.environment import read_settings
from shared.s3_storage import S3Storage
from shared.settings.base import SettingsError
from shared.settings.roles import Settings


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://127.0.0.1:9000", S3Endpoint("127.0.0.1:9000", False)),
        ("https://minio.example/", S3Endpoint("minio.example", True)),
        ("HTTPS://MinIO.example", S3Endpoint("minio.example", True)),
        ("https://s3.eu-central-1.amazonaws.com", S3Endpoint("s3.eu-central-1.amazonaws.com", True, "eu-central-1")),
        ("https://s3.cn-north-1.amazonaws.com.cn", S3Endpoint("s3.cn-north-1.amazonaws.com.cn", True, "cn-north-1")),
        ("https://s3.dualstack.eu-west-1.amazonaws.com",
         S3Endpoint("s3.dualstack.eu-west-1.amazonaws.com", True, "eu-west-1")),
        ("https://s3-eu-west-1.amazonaws.com", S3Endpoint("s3.eu-west-1.amazonaws.com", True, "eu-west-1")),
        ("https://s3.amazonaws.com", S3Endpoint("s3.amazonaws.com", True)),
        ("https://s3.eu-central-003.backblazeb2.com",
         S3Endpoint("s3.eu-central-003.backblazeb2.com", True, "eu-central-003")),
    ],
)  # fmt: skip
def test_the_region_in_a_url_counts(url: str, endpoint: S3Endpoint) -> None:
    assert parse_s3_url(url) == endpoint


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://s3.eu-central-1.amazonaws.com", "tileq.s3.eu-central-1.amazonaws.com"),
        ("https://s3-eu-west-1.amazonaws.com", "tileq.s3.eu-west-1.amazonaws.com"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "tileq.s3.cn-north-1.amazonaws.com.cn"),
        ("https://acc.r2.cloudflarestorage.com", "acc.r2.cloudflarestorage.com"),
    ],
)
def test_requests_go_to_the_host_and_region_that_the_url_names(url: str, host: str) -> None:
    client = S3Storage(Settings(s3_url=url, s3_access_key="a", s3_secret_key="b")).client
    assert client.presigned_get_object("tileq", "jobs/x").startswith(f"https://{host}/")


@pytest.mark.parametrize(
    ("addressing", "address"),
    [("auto", "http://s3.test:9000/tileq/x"), ("virtual", "http://tileq.s3.test:9000/x")],
)
def test_the_bucket_stands_in_the_path_or_in_the_host(addressing: str, address: str) -> None:
    settings = Settings.model_validate(
        {"s3_url": "http://s3.test:9000", "s3_access_key": "a", "s3_secret_key": "b", "s3_addressing": addressing}
    )
    assert S3Storage(settings).client.presigned_get_object("tileq", "x").startswith(address + "?")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("minio:9000", "must begin with http:// or https://"),
        ("ftp://minio", "must begin with http:// or https://"),
        ("https://", "names no host"),
        ("https://minio:port", "has a host or port that cannot be read"),
        ("https://gw.example/s3", "has a path, which S3 does not know: a bucket goes into TILEQ_S3_BUCKET"),
        ("https://acc.r2.cloudflarestorage.com/mybucket", "a bucket goes into TILEQ_S3_BUCKET"),
        ("https://mybucket.s3.eu-central-1.amazonaws.com", "set TILEQ_S3_BUCKET=mybucket and leave it out here"),
        ("https://key:hunter2@minio", "holds a user; set TILEQ_S3_ACCESS_KEY"),
        ("https://minio?region=x", "has a query or fragment"),
    ],
)
def test_what_a_url_should_not_hold_is_refused_with_the_cure(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse_s3_url(url)
    assert reason in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_what_the_client_itself_refuses_is_refused_as_a_setting() -> None:
    with pytest.raises(SettingsError, match=r"^TILEQ_S3_URL, TILEQ_S3_PUBLIC_URL or TILEQ_S3_REGION: "):
        S3Storage(Settings(s3_region="eu_central_"))


def test_two_regions_contradict_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_S3_URL", "https://s3.eu-central-1.amazonaws.com")
    monkeypatch.setenv("TILEQ_S3_REGION", "eu-west-1")
    with pytest.raises(SettingsError, match=r"^TILEQ_S3_URL: names the region eu-central-1, but TILEQ_S3_REGION is"):
        read_settings()
    monkeypatch.setenv("TILEQ_S3_REGION", "eu-central-1")
    monkeypatch.setenv("TILEQ_S3_PUBLIC_URL", "https://s3.eu-west-1.amazonaws.com")
    with pytest.raises(SettingsError, match=r"^TILEQ_S3_PUBLIC_URL: names the region eu-west-1"):
        read_settings()
    monkeypatch.delenv("TILEQ_S3_PUBLIC_URL")
    assert read_settings().s3_endpoint.region == "eu-central-1"


@pytest.mark.parametrize("bucket", ["My_Bucket", "my_bucket", "ab", "-ab", "a..b", "192.168.0.1", "a" * 64])
def test_a_bucket_name_that_s3_does_not_allow_is_refused_at_start(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEQ_S3_BUCKET", bucket)
    with pytest.raises(SettingsError, match=r"^TILEQ_S3_BUCKET: must be 3 to 63 lower-case letters"):
        read_settings()


@pytest.mark.parametrize(
    ("prefix", "normal"), [("", ""), ("/", ""), ("team", "team/"), ("/team/tileq/", "team/tileq/")]
)
def test_a_prefix_ends_in_one_slash(prefix: str, normal: str) -> None:
    assert normal_prefix(prefix) == normal


@pytest.mark.parametrize("prefix", ["a//b", "../b", "a b", "a/./b", "ü"])
def test_a_prefix_that_keys_should_not_hold_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="must be names of letters"):
        normal_prefix(prefix)


@pytest.mark.parametrize(
    "half",
    [
        {"s3_access_key": "a"},
        {"s3_secret_key": "b"},
        {"s3_session_token": "c"},
        {"s3_ca_file": "/nowhere.pem"},
        {"s3_ca_file": __file__, "s3_url": "https://minio"},
    ],
)
def test_half_of_the_credentials_or_an_unusable_file_is_refused(half: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(half)
