"""What to do about an error of a server, for `tileq doctor`: one remedy for each cause."""

from collections.abc import Mapping
from typing import Any

from redis import exceptions

from shared.connections.redis_client import NotPrimary
from shared.store.durability import WAITAOF_VERSION, evicts_jobs

START_REDIS = "start it or set {variable}; on one machine `tileq up` brings its own"
#: Class of an error of redis-py, or part of its text (without the first word of the reply) → remedy; the first counts.
_REDIS_REMEDIES: tuple[tuple[type[Exception] | str, str], ...] = (
    (exceptions.AuthenticationError, "set user and password in {variable}: redis://USER:PASSWORD@HOST:6379/0"),
    ("Authentication required", "set user and password in {variable}: redis://USER:PASSWORD@HOST:6379/0"),
    ("CERTIFICATE_VERIFY_FAILED", "name the authority of the server in TILEQ_REDIS_CA_FILE"),
    ("SSL", "begin {variable} with redis:// if the server speaks no TLS"),
    ("CROSSSLOT", "on a Redis Cluster set TILEQ_REDIS_PREFIX={{tileq}}: and name the node that holds it"),
    ("MOVED", "on a Redis Cluster set TILEQ_REDIS_PREFIX={{tileq}}: and name the node that holds it"),
    (NotPrimary, "that server is a replica; name the primary in {variable}, or Sentinel by redis-sentinel://"),
    (exceptions.ReadOnlyError, "that server is a replica; name the primary in {variable}, or use redis-sentinel://"),
    (exceptions.OutOfMemoryError, "raise the server's memory: CONFIG SET maxmemory BYTES (0: no limit)"),
    (
        exceptions.NoPermissionError,
        "let the user of {variable} run all commands on its keys (ACL `~tileq:* &* +@all`)",
    ),
    ("MISCONF", "make room on the server's disk; its log names the file that it can't write"),
)
_S3_CODES = {
    "InvalidAccessKeyId": "set TILEQ_S3_ACCESS_KEY to a key that the server knows",
    "SignatureDoesNotMatch": "set TILEQ_S3_SECRET_KEY to the secret of that access key",
    "AccessDenied": "let the key list, get, put and delete objects of the bucket (and create it, if it is absent)",
    "NoSuchBucket": "create the bucket, or let the key create it",
    "CERTIFICATE_VERIFY_FAILED": "name the authority of the server in TILEQ_S3_CA_FILE",
    "WRONG_VERSION_NUMBER": "begin TILEQ_S3_URL with http://; the server speaks no TLS there",
    "AuthorizationHeaderMalformed": "set TILEQ_S3_REGION to the region of the bucket",
    "PermanentRedirect": "set TILEQ_S3_REGION to the region of the bucket",
}
START_S3 = "start it, or set TILEQ_S3_URL, TILEQ_S3_ACCESS_KEY and TILEQ_S3_SECRET_KEY; `tileq up` brings its own"


def redis_remedy(error: BaseException, variable: str, *, tls: bool) -> str:
    """Return what to do about `error` of the Redis that `variable` names, reached with TLS or without."""
    for cause, remedy in _REDIS_REMEDIES:
        if cause in str(error) if isinstance(cause, str) else isinstance(error, cause):
            return remedy.format(variable=variable)
    start = START_REDIS.format(variable=variable)
    return f"{start}; if it speaks no TLS, begin {variable} with redis://" if tls else start


def durability_remedy(info: Mapping[str, Any], config: Mapping[str, str]) -> str:
    """Return the commands that make a server durable whose INFO and CONFIG GET append* are these; {} means denied."""
    if not info:
        return "let the user of TILEQ_REDIS_URL run INFO (ACL `+info`)"
    version = str(info.get("valkey_version") or info.get("redis_version") or "0")
    waits = tuple(map(int, version.split(".")[:2])) >= WAITAOF_VERSION
    commands = []
    if str(info.get("aof_enabled", 0)) != "1":
        commands.append("CONFIG SET appendonly yes")
    if not waits and config.get("appendfsync") != "always":
        commands.append("CONFIG SET appendfsync always")
    if evicts_jobs(info):
        commands.append("CONFIG SET maxmemory-policy noeviction")
    if not config:  # a managed service
        settings = " and ".join(command.removeprefix("CONFIG SET ") for command in commands)
        return f"set {settings} in the parameters of the service" if settings else "let its user run CONFIG GET"
    return f"{', '.join(commands)}, and the same in its configuration file"


def storage_remedy(detail: str) -> str:
    """Return what to do about an error of the object storage, by its text."""
    return next((remedy for code, remedy in _S3_CODES.items() if code in detail), START_S3)
