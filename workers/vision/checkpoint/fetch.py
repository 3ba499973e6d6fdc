"""Finds the folder of a checkpoint: a folder, `org/name@revision` of the hub, or `s3://bucket/prefix`.

Fetched files are kept in a cache that workers may share. A file in it is trusted by its hash alone, at every start.
"""

import re
from pathlib import Path

from minio import Minio

from workers.vision.checkpoint.cache import Report, default_cache
from workers.vision.checkpoint.fields import CheckpointError
from workers.vision.checkpoint.hub_cache import fetch_from_hub
from workers.vision.checkpoint.s3_cache import fetch_from_s3

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def locate(name: str, client: Minio | None = None, cache: Path | None = None, report: Report = print) -> Path:
    """Return the folder that holds the checkpoint `name`, fetched first if need be. Raises `CheckpointError`.

    `client` is of the S3 server that `s3://` names mean, `cache` the folder for fetched files.
    """
    cache = cache or default_cache()
    if name.startswith("s3://"):
        if client is None:
            raise CheckpointError(f"{name}: no S3 server is configured")
        return fetch_from_s3(name, client, cache, report)
    if Path(name).is_dir():
        return Path(name)
    hub_id, _, revision = name.partition("@")
    if not _HUB_ID.fullmatch(hub_id):
        raise CheckpointError(f"{name}: no such folder, and neither org/name@revision nor s3://bucket/prefix")
    if not revision:
        raise CheckpointError(f"{name}: no such folder; a model of the hub is named with its revision: {name}@COMMIT")
    return fetch_from_hub(hub_id, revision, cache, report)
