"""End of a job in object storage: a line in a group object, from which `--recover` restores the job as it ended.

ended/{hour}/{id}.jsonl        {"job": "job_…", "sealed": base64 of nonce, ciphertext and tag}, a line for each job

The record in Redis says how a job ended; only the objects are left when Redis is lost. The script that ends a job adds
it to the index `unarchived`. In every period a reconciler takes what is there, writes one group of it, and only then
removes it from the index, so that a process that dies in between repeats it. What ends otherwise than by an answer is
rare, and would surprise if it ran again: the process that ended it writes a group of its own at once.

Deleting a job, or its expiry, makes its line unreadable although the group stays: the line is encrypted (AES-256-GCM,
NIST SP 800-38D) with a key of that job alone, `seal` in its record and manifest, which are both deleted
(crypto-shredding). A group is named after the hour (UTC) in which the last of its jobs expires, and is deleted a day
later. A job that a former release accepted has no key. Its line is in plain and holds no output: that is an object.

Remaining window: if Redis and its append-only file are lost before an end is in a group (about a second, or as long as
no process reaches object storage), the job is queued again.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Literal

from shared.encryption import seal, unseal
from shared.ids import new_id
from shared.jobs import State
from shared.records import JobError, RecordValue
from shared.storage import ENDED_PREFIX, ObjectStorage
from shared.store import transitions
from shared.store.client import Store

JOBS_PER_GROUP = 500
#: For which the others leave the groups to a reconciler that has taken ends; what ends in it after that one died waits.
ARCHIVER_LEASE_S = 2
GROUP_GRACE_S = 86_400.0  #: for which a group outlives its jobs, whose objects may be deleted late
MEDIA_TYPE = "application/jsonl"
_HOUR = "%Y-%m-%dT%H"


class EndedMarker(RecordValue):
    """`jobs/{id}/ended.json`, which a former release wrote. `ended_at` is RFC 3339 in UTC by the store's clock."""

    state: Literal[State.FAILED, State.CANCELLED, State.EXPIRED]
    error: JobError | None
    ended_at: str
    attempt: int = 0  #: claims until then

    @property
    def ended(self) -> float:
        """Epoch seconds of `ended_at`."""
        return datetime.fromisoformat(self.ended_at).timestamp()


def archive_ends(store: Store, objects: ObjectStorage, ids: Sequence[str] = (), archiver: str = "") -> int:
    """Write a group of the ends of `ids`, or, as `archiver`, of the oldest that are in none; return how many they were.

    Repeating it changes nothing. Raises `QueueUnavailable` or `StorageDown`; what is not written stays in the index.
    """
    ends = store.run(transitions.list_unarchived(ids, archiver, ARCHIVER_LEASE_S, JOBS_PER_GROUP))
    if ends:
        objects.put(group_key(ends), group(ends), MEDIA_TYPE)
        store.run(transitions.archived(list(ends)))
    return len(ends)


def group_key(ends: Mapping[str, Mapping[str, str]]) -> str:
    """Return a fresh key for a group of `ends`, which are the records of jobs as far as they tell their ends."""
    expires = max(float(end.get("expires", 0)) for end in ends.values())
    return f"{ENDED_PREFIX}{datetime.fromtimestamp(expires, UTC):{_HOUR}}/{new_id('group')}.jsonl"


def group(ends: Mapping[str, Mapping[str, str]]) -> bytes:
    """Return the content of a group of `ends`, by job."""
    return b"".join(json.dumps(_line(job, dict(end))).encode() + b"\n" for job, end in ends.items())


def newest_groups(objects: ObjectStorage) -> list[str]:
    """Return the keys of all groups, the one that was written last first: its ends stand over those before."""
    return sorted(objects.keys(ENDED_PREFIX), key=lambda key: key.rpartition("/")[2], reverse=True)


def read_group(objects: ObjectStorage, key: str) -> dict[str, dict[str, Any]]:
    """Return the lines of a group by job. Raises `ObjectMissing`, `StorageDown`, and `ValueError` for other content."""
    try:
        return {line["job"]: line for line in map(json.loads, objects.get(key).splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("not a group of ends") from error


def open_line(line: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return the fields of the record that tell the end in `line`. Raises `ValueError` where `key` does not open it."""
    if "sealed" not in line:
        return dict(line["end"])
    return dict(json.loads(unseal(base64.b64decode(key), line["sealed"], line["job"].encode())))


def delete_expired_groups(objects: ObjectStorage, now: float) -> int:
    """Delete the groups all of whose jobs expired before `now`; return how many there were."""
    last, deleted = f"{datetime.fromtimestamp(now - GROUP_GRACE_S, UTC):{_HOUR}}", 0
    for hour, _ in groupby(objects.keys(ENDED_PREFIX), lambda key: key.removeprefix(ENDED_PREFIX).partition("/")[0]):
        if hour >= last:
            break
        deleted += objects.delete(f"{ENDED_PREFIX}{hour}/")
    return deleted


def _line(job: str, end: dict[str, str]) -> dict[str, Any]:
    key = end.pop("seal", "")
    if not key:
        return {"job": job, "end": end}
    return {"job": job, "sealed": seal(base64.b64decode(key), json.dumps(end).encode(), job.encode())}
