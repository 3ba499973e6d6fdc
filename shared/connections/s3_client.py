"""The client of S3, which is `minio`'s with digests that the caller knows and connections for the caller's threads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlunsplit

import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.datatypes import Part
from minio.helpers import DictType
from minio.signer import sign_v4_s3

from shared.connections.s3_credentials import RoleProvider, credentials_provider
from shared.connections.s3_endpoint import S3Endpoint
from shared.settings.base import SettingsError
from shared.settings.storage import StorageSettings

CONNECT_TIMEOUT_S = 5
#: Sent in one PUT; a larger object goes in parts, each with a digest of its own (`minio` divides it at the same size).
MAX_SINGLE_PUT_BYTES = 5 << 20
DIGEST_HEADER = "x-amz-content-sha256"


@dataclass(frozen=True)
class SignedPut:
    """A request that stores an object."""

    url: str
    headers: Mapping[str, str]
    body: bytes


class S3Client(Minio):
    """`minio`'s client, which signs `DIGEST_HEADER` of a PUT as it was given instead of hashing the body once more.

    By TLS it leaves the payload unsigned, as `minio` does: the connection protects it, and the Content-MD5 that goes
    with it is what a bucket with Object Lock requires.
    """

    def _build_headers(
        self,
        host: str,
        headers: DictType | None = None,
        body: bytes | None = None,
        creds: Credentials | None = None,
    ) -> tuple[DictType, datetime]:
        own = dict(headers or {})
        digest = own.pop(DIGEST_HEADER, None)
        if digest is None or body is None or creds is None or self._base_url.is_https:
            return super()._build_headers(host, own, body, creds)
        built, date = super()._build_headers(host, own, None, creds)
        built["Content-Length"] = str(len(body))
        built[DIGEST_HEADER] = digest
        return built, date

    def signed_put(self, bucket: str, name: str, data: bytes, media_type: str) -> SignedPut | None:
        """Return the request by which `put_object` stores `data`; None where a role's keys might have to be fetched."""
        if isinstance(self._provider, RoleProvider) or len(data) > MAX_SINGLE_PUT_BYTES:
            return None
        region, keys = self._get_region(bucket), self._provider.retrieve() if self._provider else None
        url = self._base_url.build(method="PUT", region=region, bucket_name=bucket, object_name=name)
        headers, date = self._build_headers(url.netloc, {"Content-Type": media_type}, data, keys)
        if keys:
            headers = sign_v4_s3(
                method="PUT",
                url=url,
                region=region,
                headers=headers,
                credentials=keys,
                content_sha256=str(headers[DIGEST_HEADER]),
                date=date,
            )
        return SignedPut(urlunsplit(url), {field: str(value) for field, value in headers.items()}, data)

    def begin_parts(self, bucket: str, name: str, media_type: str) -> str:
        """Begin a multipart upload; return its id."""
        return self._create_multipart_upload(bucket, name, {"Content-Type": media_type})

    def put_part(self, bucket: str, name: str, upload: str, number: int, data: bytes) -> str:
        """Store part `number`, from 1 on, of a multipart upload; return its ETag."""
        return self._upload_part(bucket, name, data, None, upload, number)

    def complete_parts(self, bucket: str, name: str, upload: str, etags: Sequence[str]) -> None:
        """Make one object of the parts."""
        parts = [Part(number, etag) for number, etag in enumerate(etags, 1)]
        self._complete_multipart_upload(bucket, name, upload, parts)

    def abort_parts(self, bucket: str, name: str, upload: str) -> None:
        """Drop a multipart upload and its parts."""
        self._abort_multipart_upload(bucket, name, upload)


def s3_client(settings: StorageSettings, endpoint: S3Endpoint, connections: int) -> S3Client:
    """Return a client that keeps `connections` open. Raises `SettingsError` for a host or region it does not take."""
    # One pool per client; retries are ours, since urllib3's would resend a stream from its end.
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=settings.s3_timeout),
        maxsize=connections,
        retries=urllib3.Retry(total=0, redirect=0),
        cert_reqs="CERT_REQUIRED",
        ca_certs=settings.s3_ca_file or None,
    )
    try:
        client = S3Client(
            endpoint=endpoint.host,
            credentials=credentials_provider(
                endpoint,
                settings.s3_access_key,
                settings.s3_secret_key.get_secret_value(),
                settings.s3_session_token.get_secret_value(),
            ),
            secure=endpoint.secure,
            region=endpoint.region,
            http_client=pool,
        )
    except ValueError as error:
        raise SettingsError(f"TILEQ_S3_URL, TILEQ_S3_PUBLIC_URL or TILEQ_S3_REGION: {error}") from None
    if settings.s3_addressing == "virtual":
        client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    elif settings.s3_addressing == "path":
        client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
    return client
