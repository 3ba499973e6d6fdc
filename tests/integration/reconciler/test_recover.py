"""Ended jobs stay ended when Redis is lost, also where the processes that ended and archived them were killed."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.cli.local.seaweed import S3
from shared.connections.redis_client import connect
from shared.conversation import Message
from shared.encryption import new_key
from shared.ended import newest_groups, read_group
from shared.ids import new_id
from shared.jobs import Job, State
from shared.requests import Manifest, Request
from shared.s3_storage import S3Storage
from shared.settings.roles import Settings
from shared.storage import manifest_key
from shared.store import transitions
from shared.store.client import Store
from shared.store.stats import get_stats
from tests.waiting import eventually

pytestmark = pytest.mark.integration
REQUEST = Request(model="m", messages=(Message(role="user", content="What?"),))


@dataclass
class Fixture:
    """A store and a bucket of this test's own, and reconcilers as processes."""

    env: dict[str, str]
    folder: Path
    store: Store
    objects: S3Storage
    stack: ExitStack

    def start(self) -> "subprocess.Popen[bytes]":
        """Start a reconciler; it is killed at the end of the test."""
        log = self.stack.enter_context((self.folder / "reconciler.log").open("ab"))
        process = subprocess.Popen([sys.executable, "-m", "workers.reconciler"], env=self.env, stdout=log, stderr=log)
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process

    def recover(self) -> dict[str, int]:
        """Lose every key of the store, and run `--recover`; return the counts that are not 0."""
        for key in self.store.client.scan_iter(match=f"{self.store.prefix}*"):
            self.store.client.delete(key)
        command = [sys.executable, "-m", "workers.reconciler", "--recover"]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60, check=True)
        counts: dict[str, int] = json.loads(done.stdout)
        return {name: count for name, count in counts.items() if count}

    def cancelled_job(self) -> Job:
        """Submit a job with its manifest and cancel it, as a process that dies before it stores the end."""
        job = Job(id=new_id("job"), tenant="t", model="m", start_within=60, run_within=60, retain=60, seal=new_key())
        manifest = Manifest(record=job.to_hash(), request=REQUEST)
        self.objects.put(manifest_key(job.id), manifest.model_dump_json().encode(), "application/json")
        self.store.run(transitions.submit("t", [job], max_queued=1000, grace=0))
        self.store.run(transitions.cancel("t", job.id))
        return job

    def archived(self) -> list[str]:
        """The jobs of all groups."""
        return [id for key in newest_groups(self.objects) for id in read_group(self.objects, key)]


@pytest.fixture
def fixture(valkey_url: str, prefix: str, s3: S3, tmp_path: Path) -> Iterator[Fixture]:
    settings = Settings(
        redis_url=valkey_url,
        redis_prefix=prefix,
        s3_url=s3.url,
        s3_access_key=s3.access_key,
        s3_secret_key=s3.secret_key,
        s3_bucket=f"recover-{secrets.token_hex(4)}",
    )
    env = os.environ | {
        "TILEQ_REDIS_URL": valkey_url,
        "TILEQ_REDIS_PREFIX": prefix,
        "TILEQ_S3_URL": s3.url,
        "TILEQ_S3_ACCESS_KEY": s3.access_key,
        "TILEQ_S3_SECRET_KEY": s3.secret_key,
        "TILEQ_S3_BUCKET": settings.s3_bucket,
        "TILEQ_RECONCILE_PERIOD": "0.05",
    }
    objects = S3Storage(settings)
    objects.check()
    with ExitStack() as stack:
        client = connect(Settings(redis_url=valkey_url).store_endpoint)
        stack.callback(client.close)
        yield Fixture(env, tmp_path, Store(client, prefix), objects, stack)


def test_a_job_whose_ender_died_before_its_end_was_stored_is_archived_by_the_reconciler(fixture: Fixture) -> None:
    job = fixture.cancelled_job()
    fixture.start()
    eventually(lambda: fixture.archived() == [job.id], 20)
    assert fixture.recover() == {"cancelled": 1}
    found = fixture.store.run(transitions.read_job("t", job.id))
    assert found is not None
    assert found.state is State.CANCELLED


def test_of_several_reconcilers_of_which_one_is_killed_the_others_leave_no_end_out(fixture: Fixture) -> None:
    reconcilers = [fixture.start() for _ in range(2)]
    jobs = [fixture.cancelled_job() for _ in range(100)]
    eventually(fixture.archived, 20, every=0.005)
    reconcilers[0].send_signal(signal.SIGKILL)
    jobs += [fixture.cancelled_job() for _ in range(50)]
    eventually(lambda: fixture.store.run(get_stats()).unarchived == 0, 30)
    assert {*fixture.archived()} == {job.id for job in jobs}
    assert fixture.recover() == {"cancelled": len(jobs)}
    assert fixture.store.run(get_stats()).outbox == 0
