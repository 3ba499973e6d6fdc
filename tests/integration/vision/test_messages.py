"""What reaches a worker through the broker besides good hints, and what gets lost there."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from shared.broker import make_celery, queue, vision_queue
from shared.ids import new_id
from shared.jobs import State
from shared.models import DEMO_MODEL_ID
from tests.integration.vision.test_process import Backends, backends
from tests.unit.shared.connections.test_hint_envelope import HINT
from tests.waiting import eventually

__all__ = ["backends"]
pytestmark = pytest.mark.integration
QUEUE = vision_queue(DEMO_MODEL_ID)
NO_MESSAGES = (
    *(b"\xff\xfe garbage", b"not JSON", b"{}", b"[]", b"null", b"1", b'"x"', b'{"a":' * 50_000, b"[" * 50_000),
    *(json.dumps(message).encode() for message in ({"body": "x", "headers": {}}, HINT | {"headers": None})),
    json.dumps(HINT | {"properties": {"delivery_tag": None}}).encode(),
)
#: A worker that is killed where kombu has taken a message off the list and not yet written it to `unacked`.
KILLED_WHILE_IT_TAKES_A_MESSAGE = """
import os, runpy, signal
from kombu.transport import redis
redis.QoS.append = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_module("workers.vision", run_name="__main__")
"""


def messages(backends: Backends) -> int:
    """Messages that wait in the queue or are lent out."""
    return int(backends.store.client.llen(f"{backends.settings.redis_prefix}mq:{QUEUE}")) + len(backends.unacked())


def test_a_message_that_dies_with_its_worker_between_list_and_unacked_costs_no_job(backends: Backends) -> None:
    job = backends.submit("still there?")
    command = [sys.executable, "-c", KILLED_WHILE_IT_TAKES_A_MESSAGE]
    with (backends.logs / "killed.log").open("wb") as log:
        killed = subprocess.Popen(command, env=os.environ | backends.env, stdout=log, stderr=log)
    assert killed.wait(60) == -signal.SIGKILL, backends.log("killed")
    assert backends.read(job).attempt == 0
    with backends.worker("two"):
        answered = backends.ended(job)
    assert (answered.state, answered.attempt, answered.owner) == (State.SUCCEEDED, 1, "two")


def published(backends: Backends, task: str, *arguments: Any) -> None:
    make_celery(backends.settings).send_task(task, args=arguments, queue=queue(QUEUE), retry=False)


def test_messages_that_are_no_hints_cost_nothing_and_the_worker_goes_on(backends: Backends) -> None:
    with backends.worker() as process:
        for body in NO_MESSAGES:
            backends.store.client.lpush(f"{backends.settings.redis_prefix}mq:{QUEUE}", body)
        published(backends, "another.task", "x")
        published(backends, "tileq.look")
        published(backends, "tileq.look", "job_x", "of a later release")
        published(backends, "tileq.look", {"id": 1})
        for _ in range(3):
            published(backends, "tileq.look", new_id("job"))
        job = backends.submit("and now?")
        for _ in range(3):
            assert backends.hints.job(DEMO_MODEL_ID, job.id)  # again, and late
        assert backends.ended(job).state is State.SUCCEEDED, backends.log()
        assert backends.hints.job(DEMO_MODEL_ID, job.id)
        eventually(lambda: messages(backends) == 0, within=20)
        assert backends.alive(process)
    assert (backends.read(job).attempt, backends.read(job).state) == (1, State.SUCCEEDED)
