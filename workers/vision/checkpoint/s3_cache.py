"""Checkpoints of an S3 prefix, fetched into a cache that workers may share.

    CACHE/s3/BUCKET/PREFIX/.lock          held shared while files are checked, exclusive while they are changed
                           @VERSION/      the files of one listing (names, ETags, sizes); never changed, only repaired
                           @VERSION/.checksums          sha256 of each, written once all of them were verified

A file is fetched under a name of its own, verified, then renamed. At every start each file is hashed and compared with
what the server states, or, where its ETag is no hash of the content (encryption by KMS, some gateways), with the
sha256 that it had when it was fetched. A file that fails is fetched again.
"""

import base64
import hashlib
import os
import re
import shutil
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from minio import Minio
from minio.error import MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError

from workers.vision.checkpoint.cache import Report, cache_lock, is_fetched, select_parallel
from workers.vision.checkpoint.checksums import Checksums, parse_checksums
from workers.vision.checkpoint.digests import Digest, file_hash
from workers.vision.checkpoint.fields import CheckpointError

BLOCK_BYTES = 1 << 20
MAX_FETCHES = 3  #: of one file, until one has the announced digest or two bring the same bytes
RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between requests none of which brought a byte
PASSING_CODES = ("SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "TooManyRequests")
OLD_VERSION_TTL_S = 86_400.0  # another worker may be about to load it
#: Part sizes of the usual clients, for servers that do not state them: aws, boto3, rclone, s5cmd, mc, minio-py.
USUAL_PART_MIB = (5, 8, 10, 15, 16, 25, 32, 50, 64, 100, 128, 200, 256, 500, 512, 1000, 1024)
_MD5, _MULTIPART = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{32}-(\d{1,5})")


def fetch_from_s3(name: str, client: Minio, cache: Path, report: Report) -> Path:
    """Return the folder of the checkpoint at `name`, `s3://bucket/prefix`. Raises `CheckpointError`."""
    bucket, _, prefix = name.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    if not bucket or ".." in Path(prefix).parts:
        raise CheckpointError(f"{name}: not s3://bucket/prefix")
    try:
        remotes = _list(client, bucket, prefix)
        if not remotes:
            raise CheckpointError(f"{name}: no file of a checkpoint is there")
        return _CachedPrefix(client, remotes, cache / "s3" / bucket / prefix, report).ensure()
    except (MinioException, HTTPError, OSError) as error:
        raise CheckpointError(f"{name}: {error}") from error


@dataclass(frozen=True)
class RemoteFile:
    """An object of a prefix, in the version that was listed."""

    bucket: str
    key: str
    etag: str
    size: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return self.key.rsplit("/", 1)[-1]

    @property
    def url(self) -> str:
        """Name for people."""
        return f"s3://{self.bucket}/{self.key}"


def _list(client: Minio, bucket: str, prefix: str) -> list[RemoteFile]:
    listed = client.list_objects(bucket, f"{prefix}/" if prefix else "")
    return [
        RemoteFile(bucket, item.object_name, (item.etag or "").strip('"'), item.size or 0)
        for item in listed
        if item.object_name and is_fetched(item.object_name.rsplit("/", 1)[-1])
    ]


@dataclass
class _CachedPrefix:
    """The files of one listing in the cache."""

    client: Minio
    remotes: list[RemoteFile]
    root: Path
    report: Report

    def __post_init__(self) -> None:
        lines = sorted(f"{remote.name} {remote.etag} {remote.size}\n" for remote in self.remotes)
        #: of this listing
        self.folder = self.root / f"@{hashlib.sha256(''.join(lines).encode()).hexdigest()[:16]}"
        #: what the server states of each file's content
        self.digests = {remote.name: stated_digest(self.client, remote) for remote in self.remotes}

    def ensure(self) -> Path:
        """Return the folder once every file in it is there and verified."""
        lock = self.root / ".lock"
        with cache_lock(lock, exclusive=False, report=self.report):
            missing = self._unverified()
            if not missing:
                self._mark_used()
        if missing:
            with cache_lock(lock, exclusive=True, report=self.report) as locked:
                self._fetch_all(self._unverified(), locked)
                self._mark_used()
                if locked:
                    _remove_old_versions(self.root, self.folder, self.report)
        return self.folder

    def _mark_used(self) -> None:
        """Keep the folder from being removed as an old version."""
        with suppress(OSError):  # a read-only cache
            os.utime(self.folder)

    def _unverified(self) -> list[RemoteFile]:
        """The files that are absent or not what they must be."""
        recorded = _read_record(self.folder)
        return select_parallel(self.remotes, lambda remote: not self._is_verified(remote, recorded.get(remote.name)))

    def _is_verified(self, remote: RemoteFile, recorded: str | None) -> bool:
        path, digest = self.folder / remote.name, self.digests[remote.name]
        if not path.is_file():
            return False
        if path.stat().st_size == remote.size:
            if recorded and file_hash(path, "sha256") == recorded:
                return True
            if digest and digest.matches(path):
                return True
        self.report(f"{path}: the cached file is damaged and is fetched again")
        return False

    def _fetch_all(self, remotes: list[RemoteFile], locked: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for remote in remotes:
            if not self._reuse(remote):
                self._fetch(remote, locked)
        _write_record(self.folder, [remote.name for remote in self.remotes])

    def _reuse(self, remote: RemoteFile) -> bool:
        """Link a file of another version with the same content, if there is one."""
        digest = self.digests[remote.name]
        for path in [*self.root.glob(f"@*/{remote.name}"), self.root / remote.name]:
            if path.parent == self.folder or not path.is_file() or path.stat().st_size != remote.size:
                continue
            if digest and digest.matches(path):
                part = self._part(remote)
                try:
                    os.link(path, part)
                except OSError:  # a file system without hard links
                    shutil.copyfile(path, part)
                part.replace(self.folder / remote.name)
                return True
        return False

    def _fetch(self, remote: RemoteFile, locked: bool) -> None:
        """Fetch until the content is what the server states, or two fetches bring the same bytes."""
        digest, seen = self.digests[remote.name], set[str]()
        part = self._abandoned_part(remote) if locked and digest else None
        for _ in range(MAX_FETCHES):
            part = part or self._part(remote)
            self._download(remote, part)
            found = file_hash(part, "sha256")
            if digest is None or digest.matches(part) or found in seen:
                if found in seen:
                    self.report(f"{remote.url}: two fetches brought the same bytes; its ETag is no hash of them")
                part.replace(self.folder / remote.name)
                return
            self.report(f"{remote.url}: what came does not have the {digest.algorithm} {digest.value}; once more")
            seen.add(found)
            part.unlink()
            part = None
        raise CheckpointError(f"{remote.url}: {MAX_FETCHES} fetches brought different bytes, none of them those stored")

    def _download(self, remote: RemoteFile, part: Path) -> None:
        """Fetch what `part` lacks, going on after errors that pass. Raises `CheckpointError` if other bytes come."""
        delays = iter(RETRY_DELAYS_S)
        have = _size(part)
        resumed = f", from {have / 1e6:.1f} MB on" if have else ""
        self.report(f"fetching {remote.name}, {remote.size / 1e6:.1f} MB{resumed}")
        part.touch()
        while have < remote.size:
            try:
                self._append(remote, part, have)
            except (MinioException, HTTPError) as error:
                if _size(part) > have:
                    delays = iter(RETRY_DELAYS_S)
                if not _may_pass(error) or (delay := next(delays, None)) is None:
                    raise
                self.report(f"{remote.url}: {error}; going on in {delay:g} s")
                time.sleep(delay)
            else:
                break
            have = _size(part)
        if (size := _size(part)) != remote.size:
            if size > remote.size:
                part.unlink()
            raise CheckpointError(f"{remote.url}: {remote.size} bytes announced, {size} came; start again to go on")

    def _append(self, remote: RemoteFile, part: Path, offset: int) -> None:
        with part.open("ab") as file:
            response = self.client.get_object(remote.bucket, remote.key, offset=offset)
            try:
                for block in response.stream(BLOCK_BYTES):
                    file.write(block)
            finally:
                response.close()
                response.release_conn()

    def _part(self, remote: RemoteFile) -> Path:
        """A name that no other process uses."""
        return self.folder / f".{remote.name}.{uuid.uuid4().hex}.part"

    def _abandoned_part(self, remote: RemoteFile) -> Path | None:
        """What a process that died left of this file, under a name of our own. The exclusive lock is held."""
        parts = sorted(self.folder.glob(f".{remote.name}.*.part"), key=lambda path: path.stat().st_size)
        for path in parts[:-1]:
            path.unlink()
        return parts[-1].rename(self._part(remote)) if parts else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _may_pass(error: Exception) -> bool:
    """Whether the server was too busy or the connection broke, and the same request may succeed later."""
    if isinstance(error, S3Error):
        return error.code in PASSING_CODES
    return isinstance(error, HTTPError | ServerError)


def stated_digest(client: Minio, remote: RemoteFile) -> Digest | None:
    """Return the digest of the content that the server states; None if it states none."""
    headers = (
        client.stat_object(remote.bucket, remote.key, extra_headers={"x-amz-checksum-mode": "ENABLED"}).metadata or {}
    )
    sha256 = headers.get("x-amz-checksum-sha256", "")
    if sha256 and "-" not in sha256 and headers.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT":
        with suppress(ValueError):
            return Digest("sha256", base64.b64decode(sha256, validate=True).hex())
    kms = headers.get("x-amz-server-side-encryption", "").startswith("aws:kms")
    if kms or "x-amz-server-side-encryption-customer-algorithm" in headers:
        return None
    if _MD5.fullmatch(remote.etag):
        return Digest("md5", remote.etag)
    if match := _MULTIPART.fullmatch(remote.etag):
        part_bytes = _part_bytes(client, remote, int(match[1]))
        return Digest("md5-parts", remote.etag, part_bytes) if part_bytes else None
    return None


def _part_bytes(client: Minio, remote: RemoteFile, parts: int) -> int | None:
    """The size of the parts of a multipart upload: as the server states it, else the usual one that fits."""
    if parts == 1:
        return max(1, remote.size)
    with suppress(MinioException, HTTPError):
        first = client.stat_object(remote.bucket, remote.key, extra_query_params={"partNumber": "1"}).size or 0
        if first and -(-remote.size // first) == parts:
            return first
    fitting = [mib << 20 for mib in USUAL_PART_MIB if -(-remote.size // (mib << 20)) == parts]
    return fitting[0] if len(fitting) == 1 else None


def _read_record(folder: Path) -> dict[str, str]:
    try:
        return parse_checksums((folder / ".checksums").read_text())
    except (OSError, ValueError):
        return {}


def _write_record(folder: Path, names: list[str]) -> None:
    part = folder / f".checksums.{uuid.uuid4().hex}.part"
    part.write_text(Checksums({name: file_hash(folder / name, "sha256") for name in names}).text)
    part.replace(folder / ".checksums")


def _remove_old_versions(root: Path, current: Path, report: Report) -> None:
    """Remove versions that have not been used for a day, and files of the cache's former layout."""
    for path in root.iterdir():
        if path.is_file() and path.name != ".lock":
            path.unlink()
        elif path.name.startswith("@") and path != current and time.time() - path.stat().st_mtime > OLD_VERSION_TTL_S:
            report(f"removing an old version of the model: {path}")
            shutil.rmtree(path, ignore_errors=True)
