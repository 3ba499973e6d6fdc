"""From what a user calls a model to a folder: a folder, `org/name@revision` of the hub, or `s3://bucket/prefix`.

Only JSON, safetensors and tokenizer files are ever fetched: no `.py`, no pickle.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from workers.vision.checkpoint.fields import CheckpointError

FETCHED = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "*.safetensors",
    "*.index.json",
)
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
BLOCK = 1 << 20

Report = Callable[[str], None]  #: is told a line for people


@dataclass(frozen=True)
class Storage:
    """What fetching from S3 takes."""

    client: Minio
    cache: Path  #: fetched files live here, folder by folder


def locate(name: str, storage: Storage | None = None, report: Report = print) -> Path:
    """The folder that holds the checkpoint `name`; fetched first if need be. Raises `CheckpointError`."""
    if name.startswith("s3://"):
        if storage is None:
            raise CheckpointError(f"{name}: no S3 server is configured")
        return _from_s3(name, storage, report)
    if Path(name).is_dir():
        return Path(name)
    hub_id, _, revision = name.partition("@")
    if not HUB_ID.fullmatch(hub_id):
        raise CheckpointError(f"{name}: no such folder, and neither org/name@revision nor s3://bucket/prefix")
    if not revision:
        raise CheckpointError(f"{name}: no such folder; a model of the hub is named with its revision: {name}@COMMIT")
    return _from_hub(hub_id, revision)


def default_cache() -> Path:
    """Where fetched models live unless told otherwise."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tileq" / "models"


def _from_hub(hub_id: str, revision: str) -> Path:
    """The hub's own client: it shows progress, resumes, keeps a cache and honours HF_HUB_OFFLINE."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a second to import, seldom needed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(FETCHED)))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{hub_id}@{revision}: not in the local cache, and the hub can't be reached or HF_HUB_OFFLINE is set"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"{hub_id}@{revision}: {str(error).strip().splitlines()[0]}") from error


def _from_s3(name: str, storage: Storage, report: Report) -> Path:
    bucket, _, prefix = name.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    folder = storage.cache / "s3" / bucket / prefix
    if not bucket or ".." in Path(prefix).parts:
        raise CheckpointError(f"{name}: not s3://bucket/prefix")
    try:
        listed = storage.client.list_objects(bucket, f"{prefix}/" if prefix else "")
        remotes = [
            Remote(bucket, item.object_name, (item.etag or "").strip('"'), item.size or 0)
            for item in listed
            if item.object_name and _wanted(item.object_name)
        ]
        if not remotes:
            raise CheckpointError(f"{name}: no file of a checkpoint is there")
        folder.mkdir(parents=True, exist_ok=True)
        for remote in remotes:
            _fetch(storage.client, remote, folder, report)
    except (MinioException, HTTPError, OSError) as error:
        raise CheckpointError(f"{name}: {error}") from error
    _forget_others(folder, {remote.name for remote in remotes})
    return folder


@dataclass(frozen=True)
class Remote:
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
    def version(self) -> str:
        """Differs when the content does."""
        return f"{self.etag}-{self.size}"


def _wanted(key: str) -> bool:
    return any(fnmatch(key.rsplit("/", 1)[-1], pattern) for pattern in FETCHED)


def _fetch(client: Minio, remote: Remote, folder: Path, report: Report) -> None:
    """Fetch one object; a part left by a broken fetch of the same version is continued."""
    target, stamp = folder / remote.name, folder / f".{remote.name}.version"
    if target.is_file() and stamp.is_file() and stamp.read_text() == remote.version:
        return
    part = folder / f".{remote.name}.{remote.version}.part"
    have = part.stat().st_size if part.is_file() else 0
    resumed = f", from {have / 1e6:.1f} MB on" if have else ""
    report(f"fetching {remote.name}, {remote.size / 1e6:.1f} MB{resumed}")
    with part.open("ab") as file:
        if have < remote.size:
            response = client.get_object(remote.bucket, remote.key, offset=have)
            try:
                for block in response.stream(BLOCK):
                    file.write(block)
            finally:
                response.close()
                response.release_conn()
    if part.stat().st_size != remote.size:
        part.unlink()
        raise CheckpointError(f"s3://{remote.bucket}/{remote.key}: {remote.size} bytes announced, not so many came")
    part.replace(target)
    stamp.write_text(remote.version)


def _forget_others(folder: Path, names: set[str]) -> None:
    """Files that the prefix no longer has would be taken for the checkpoint's."""
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith(".") and path.name not in names:
            path.unlink()
