"""Credentials of the S3 server: the settings' keys, else what AWS's own SDKs would find in the environment.

1. TILEQ_S3_ACCESS_KEY, TILEQ_S3_SECRET_KEY and, for temporary keys, TILEQ_S3_SESSION_TOKEN
2. AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN
3. a role: AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN (IRSA), AWS_CONTAINER_CREDENTIALS_* (ECS, EKS pods), or,
   where the server is Amazon's, the instance profile
4. none: requests are not signed
"""

import os
from collections.abc import Mapping

import urllib3
from minio.credentials.credentials import Credentials
from minio.credentials.providers import EnvAWSProvider, IamAwsProvider, Provider, StaticProvider
from minio.error import MinioException

from shared.connections.s3_endpoint import S3Endpoint

ROLE_TIMEOUT_S = 5.0  #: for one request to the service that hands out a role's keys

_ROLE_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class NoCredentials(MinioException):
    """The service that hands out a role's keys gave none."""


class RoleProvider(Provider):
    """The keys of the role of this pod, task or instance, fetched anew before they expire."""

    def __init__(self, endpoint: S3Endpoint) -> None:
        pool = urllib3.PoolManager(
            timeout=urllib3.Timeout(ROLE_TIMEOUT_S), retries=urllib3.Retry(total=1, backoff_factor=0.2)
        )
        # AWS_ENDPOINT_URL_STS is the variable of AWS's SDKs for a Security Token Service of one's own.
        sts = os.environ.get("AWS_ENDPOINT_URL_STS") if "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ else None
        self._provider = IamAwsProvider(http_client=pool, region=endpoint.region, custom_endpoint=sts)

    def retrieve(self) -> Credentials:
        """Return the keys. Raises `NoCredentials`."""
        try:
            return self._provider.retrieve()
        except Exception as error:  # urllib3's, the parsers' and the files' errors: nothing here may pass as an answer
            raise NoCredentials(f"no credentials for S3 from the role of this process: {error}") from error


def credentials_provider(endpoint: S3Endpoint, access_key: str, secret_key: str, session_token: str) -> Provider | None:
    """Return where the client gets its keys from, or None to sign nothing."""
    if access_key:
        return StaticProvider(access_key, secret_key, session_token or None)
    if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
        return EnvAWSProvider()
    if has_role(os.environ) or endpoint.aws:
        return RoleProvider(endpoint)
    return None


def has_role(environment: Mapping[str, str]) -> bool:
    """Tell whether the platform gave this process a role."""
    return any(environment.get(name) for name in _ROLE_VARIABLES)
