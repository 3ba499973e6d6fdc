"""Checkpoints of the hub, by its own client: it shows progress, resumes, keeps a cache and honours HF_HUB_OFFLINE.

The client verifies sizes only. Its cache names each file by the hub's ETag, which is the sha256 of a large file and
git's sha1 of a small one, so the content is checked against the name here, at every start.
"""

import re
from pathlib import Path

from workers.vision.checkpoint.cache import FETCHED_PATTERNS, Report, cache_lock, select_parallel
from workers.vision.checkpoint.digests import Digest, file_hash
from workers.vision.checkpoint.fields import CheckpointError

_SHA256, _GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def fetch_from_hub(hub_id: str, revision: str, cache: Path, report: Report) -> Path:
    """Return the folder of `hub_id` at `revision`; what is damaged is fetched again. Raises `CheckpointError`."""
    name, lock = f"{hub_id}@{revision}", cache / "hub" / f"{hub_id.replace('/', '--')}.lock"
    try:
        with cache_lock(lock, exclusive=False, report=report):
            folder = _download(hub_id, revision)
            damaged = _find_damaged(folder)
        if damaged:
            with cache_lock(lock, exclusive=True, report=report):
                _repair(hub_id, revision, folder, report)
    except OSError as error:
        raise CheckpointError(f"{name}: {error}") from error
    return folder


def _repair(hub_id: str, revision: str, folder: Path, report: Report) -> None:
    before = {path: file_hash(path, "sha256") for path in _find_damaged(folder)}
    for path in before:
        report(f"{hub_id}@{revision}: the cached {path.name} is damaged and is fetched again")
        path.resolve().unlink()
        path.unlink(missing_ok=True)
    try:
        _download(hub_id, revision)
    except CheckpointError as error:
        names = ", ".join(path.name for path in before)
        raise CheckpointError(f"{error}; the cached {names} was damaged and has to be fetched again") from error
    # Two fetches that brought the same bytes: this server's ETag is no hash of the content.
    damaged = [path for path in _find_damaged(folder) if before.get(path) != file_hash(path, "sha256")]
    if damaged:
        raise CheckpointError(f"{hub_id}@{revision}: {damaged[0].name} does not have the hash that the hub announces")


def _find_damaged(folder: Path) -> list[Path]:
    paths = sorted(path for pattern in FETCHED_PATTERNS for path in folder.glob(pattern) if path.is_file())
    return select_parallel(paths, _is_damaged)


def _is_damaged(path: Path) -> bool:
    blob = path.resolve()
    if blob.parent.name != "blobs":  # a cache without links holds copies, whose names tell nothing
        return False
    if _SHA256.fullmatch(blob.name):
        return not Digest("sha256", blob.name).matches(blob)
    return bool(_GIT_SHA1.fullmatch(blob.name)) and not Digest("git-sha1", blob.name).matches(blob)


def _download(hub_id: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - a second to import, seldom needed
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError  # noqa: PLC0415

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(FETCHED_PATTERNS)))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{hub_id}@{revision}: not in the local cache, and the hub can't be reached or HF_HUB_OFFLINE is set"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"{hub_id}@{revision}: {str(error).strip().splitlines()[0]}") from error
