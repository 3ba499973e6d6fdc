"""Settings of the object storage."""

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from shared.connections.s3_endpoint import S3Endpoint, check_bucket_name, normal_prefix, parse_s3_url
from shared.settings.base import ProcessSettings
from shared.settings.values import CaFile, checked

_S3Url = Annotated[str, checked(parse_s3_url)]
_OtherS3Url = Annotated[str, checked(parse_s3_url, or_empty=True)]
_Bucket = Annotated[str, checked(check_bucket_name)]


class StorageSettings(ProcessSettings):
    """Where the object storage is."""

    s3_url: _S3Url = Field("http://127.0.0.1:9000", description="S3 server, scheme and port included, no path")
    s3_public_url: _OtherS3Url = Field(
        "", description="address of the S3 server for clients, who put uploads there by presigned URLs; empty: none do"
    )
    s3_access_key: str = Field(
        "",
        description="S3 access key; empty: AWS's variables (`AWS_ACCESS_KEY_ID` …), then the role of the pod or task",
    )
    s3_secret_key: SecretStr = Field(SecretStr(""), description="S3 secret key")
    s3_session_token: SecretStr = Field(SecretStr(""), description="session token, where the keys are temporary")
    s3_region: str = Field("", description="S3 region; empty: the one in s3_url, else us-east-1")
    s3_bucket: _Bucket = Field("tileq", description="bucket for images, manifests and results; made if absent")
    s3_prefix: str = Field("", description="in front of every key, for a bucket that is shared: `team/tileq`")
    s3_addressing: Literal["auto", "path", "virtual"] = Field(
        "auto", description="`virtual`: the bucket in the host name; `auto`: at AWS virtual, elsewhere `path`"
    )
    s3_ca_file: CaFile = Field("", description="PEM of the authorities of the S3 server; empty: the system's")
    s3_timeout: float = Field(20, gt=0, description="for one S3 request")

    @field_validator("s3_prefix")
    @classmethod
    def _normal_prefix(cls, value: str) -> str:
        return normal_prefix(value)

    @model_validator(mode="after")
    def _consistent_storage(self) -> Self:
        variable = "TILEQ_S3_URL"
        try:
            endpoint, variable = self.s3_endpoint, "TILEQ_S3_PUBLIC_URL"
            _ = self.s3_public_endpoint
        except ValueError as error:
            raise ValueError(f"{variable}: {error}") from None
        if self.s3_ca_file and not endpoint.secure:
            raise ValueError("TILEQ_S3_CA_FILE is set, but TILEQ_S3_URL uses no TLS: begin it with https://")
        if bool(self.s3_access_key) != bool(self.s3_secret_key.get_secret_value()):
            raise ValueError("set both of TILEQ_S3_ACCESS_KEY and TILEQ_S3_SECRET_KEY, or none")
        if self.s3_session_token.get_secret_value() and not self.s3_access_key:
            raise ValueError("TILEQ_S3_SESSION_TOKEN is set without the keys that it belongs to")
        return self

    @property
    def s3_endpoint(self) -> S3Endpoint:
        """The S3 server."""
        return parse_s3_url(self.s3_url, self.s3_region)

    @property
    def s3_public_endpoint(self) -> S3Endpoint | None:
        """The S3 server as clients reach it, in the same region; None where they don't."""
        return parse_s3_url(self.s3_public_url, self.s3_endpoint.region) if self.s3_public_url else None
