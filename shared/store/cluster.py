"""Redis Cluster: a command takes keys of one hash slot only, so every key must carry the same hash tag.

redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec, "Hash tags"
"""

import re
from collections.abc import Mapping
from typing import Any

_HASH_TAG = re.compile(r"[^{]*\{[^}]+\}")


def cluster_problem(info: Mapping[str, Any], prefix: str) -> str:
    """Return why keys under `prefix` cannot be used on the server that `info` (INFO) describes, and the cure; or ""."""
    if str(info.get("cluster_enabled", 0)) != "1" or _HASH_TAG.match(prefix):
        return ""
    return (
        "the server is a node of a Redis Cluster, where the keys of one command must lie in one slot: set "
        "TILEQ_REDIS_PREFIX={tileq}: (with the braces) in every process"
    )
