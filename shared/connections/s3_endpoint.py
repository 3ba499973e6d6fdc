"""The S3 server as one URL names it: scheme, host and port, and the region where the host name holds one.

The `minio` client takes a host, and silently drops a path and rewrites a host of AWS to the region it was given. Here a
region in the URL counts, and a path, user, query or bucket in it is refused; no message holds a user name or password.
"""

import re
import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

DEFAULT_REGION = "us-east-1"

_AWS_HOST = re.compile(
    r"(?P<bucket>.+\.)?s3(?P<kind>-fips|-accelerate)?(-(?P<old>[a-z]+(-[a-z]+)+-\d))?(?P<dualstack>\.dualstack)?"
    r"(\.(?P<region>[a-z]+(-[a-z]+)+-\d))?\.amazonaws\.com(?P<china>\.cn)?"
)
#: Other services that put the region there, and check it: s3.eu-central-003.backblazeb2.com, s3.eu-west-1.wasabisys.com
_REGION_IN_HOST = re.compile(r"s3\.([a-z]{2}-[a-z]+-\d+)\.[a-z0-9.-]+")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*/?")


@dataclass(frozen=True)
class S3Endpoint:
    """Where the server is: `host` with its port, if the URL names one."""

    host: str
    secure: bool
    region: str = DEFAULT_REGION

    @property
    def aws(self) -> bool:
        """Whether it is Amazon's own."""
        return _is_aws(self.host)


def parse_s3_url(url: str, region: str = "") -> S3Endpoint:
    """Return the endpoint that `url` names, in `region`, if one is set.

    Raises `ValueError` with what is wrong and what to write instead.
    """
    parts = _split(url)
    host = parts.netloc.lower()
    if _is_aws(host):
        host, found = _aws(host)
        if region and found and region != found:
            raise ValueError(f"names the region {found}, but TILEQ_S3_REGION is {region}; set one of them")
    else:
        match = _REGION_IN_HOST.fullmatch(parts.hostname or "")
        found = match.group(1) if match else ""
    return S3Endpoint(host, parts.scheme == "https", region or found or DEFAULT_REGION)


def check_bucket_name(bucket: str) -> None:
    """Raise `ValueError` where S3 allows no such name."""
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or re.fullmatch(r"[\d.]+", bucket):
        raise ValueError("must be 3 to 63 lower-case letters, digits, hyphens or dots, beginning and ending with a "
                         "letter or digit, and no IP address")  # fmt: skip


def normal_prefix(prefix: str) -> str:
    """Return `prefix` without a leading and with a final slash. Raises `ValueError` where keys should not hold it."""
    trimmed = prefix.strip("/")
    if not trimmed:
        return ""
    if not _PREFIX.fullmatch(trimmed) or {".", ".."} & set(trimmed.split("/")):
        raise ValueError("must be names of letters, digits and !_.*'()- separated by single slashes")
    return f"{trimmed}/"


def check_ca_file(path: str) -> None:
    """Raise `ValueError` where `path` holds no certificate authorities in PEM."""
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"names {path}, which cannot be used: {error.strerror or error}") from None


def _split(url: str) -> SplitResult:
    scheme = url.partition("://")[0].lower()
    if scheme not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("has a host or port that cannot be read") from None
    if "@" in url:
        raise ValueError("holds a user; set TILEQ_S3_ACCESS_KEY and TILEQ_S3_SECRET_KEY")
    if not parts.hostname or port == 0:
        raise ValueError("names no host")
    if parts.path not in ("", "/"):
        raise ValueError("has a path, which S3 does not know: a bucket goes into TILEQ_S3_BUCKET, a prefix of all keys "
                         "into TILEQ_S3_PREFIX, and a server behind a path needs a host of its own")  # fmt: skip
    if parts.query or parts.fragment:
        raise ValueError("has a query or fragment, which mean nothing here; leave them out")
    return parts


def _is_aws(host: str) -> bool:
    return bool(re.fullmatch(r".+\.amazonaws\.com(\.cn)?(:\d+)?", host))


def _aws(host: str) -> tuple[str, str]:
    """Return the host as the `minio` client knows it, and its region."""
    match = _AWS_HOST.fullmatch(host.partition(":")[0])
    if not match:  # a VPC endpoint or access point, which the client takes apart by itself
        return host, ""
    if match["bucket"] and "vpce" not in match["bucket"]:
        bucket = match["bucket"].rstrip(".")
        raise ValueError(f"names the bucket {bucket} in its host: set TILEQ_S3_BUCKET={bucket} and leave it out here")
    region = match["region"] or match["old"] or ""
    if match["old"]:  # s3-eu-west-1.amazonaws.com, of before 2019
        host = f"s3.{region}.amazonaws.com{match['china'] or ''}"
    return host, region
