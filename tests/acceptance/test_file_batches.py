"""Batches of files by OpenAI's SDK against the real servers, undisturbed and while processes are killed."""

import json
import random
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI
from openai.types.webhooks import BatchCompletedWebhookEvent

from tests.receiver import Receiver
from tests.service import Service, service
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance

WITHIN_S = 240.0  #: of a batch on a machine that has other work


@pytest.fixture(scope="module")
def here() -> Iterator[Service]:
    with service(engine="echo", env={"TILEQ_BATCH_QUEUED": "100", "TILEQ_ECHO_TILES": "false"}) as running:
        yield running


def line(n: int) -> str:
    body = {"messages": [{"role": "user", "content": f"What is {n}?"}]}
    return json.dumps({"custom_id": f"line-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def created(client: OpenAI, lines: int, **extra: Any) -> str:
    content = "\n".join(map(line, range(lines))).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", extra_body=extra
    ).id


def refuse_unless_complete(client: OpenAI, done: Any, lines: int) -> None:
    """Require every line's answer, once and in order."""
    assert done.status == "completed"
    assert done.request_counts.model_dump() == {"total": lines, "completed": lines, "failed": 0}
    assert done.error_file_id is None
    answers = [json.loads(text) for text in client.files.content(done.output_file_id).text.splitlines()]
    assert [one["custom_id"] for one in answers] == [f"line-{n}" for n in range(lines)]
    assert all(one["response"]["body"]["choices"][0]["message"]["content"] for one in answers)


def test_a_thousand_lines_are_answered_and_the_end_is_told_by_a_typed_webhook(here: Service, hook: Receiver) -> None:
    secret = (here.folder / "webhook-secret").read_text().strip()
    client = OpenAI(base_url=f"{here.url}/v1", api_key="EMPTY", webhook_secret=secret)
    with hook.up():
        id = created(client, 1000, tileq={"webhook": {"url": hook.url}})
        eventually(lambda: client.batches.retrieve(id).completed_at, WITHIN_S, 0.2)
        (told,) = eventually(lambda: hook.arrived, 30)
    refuse_unless_complete(client, client.batches.retrieve(id), 1000)
    event = client.webhooks.unwrap(told.body, told.headers)
    assert isinstance(event, BatchCompletedWebhookEvent)
    assert event.data.id == id
    assert client.batches.list(limit=1).data[0].id == id


def test_killed_processes_lose_no_line_and_repeat_none(here: Service) -> None:
    client, lines = OpenAI(base_url=f"{here.url}/v1", api_key="EMPTY", max_retries=10), 300
    victims = ("batches", "valkey", "vision", "intake", "batches")
    moments = sorted(random.Random(20261125).sample(range(lines), len(victims)))  # by the lines that were read
    kills = list(zip(moments, victims, strict=True))
    id = created(client, lines)

    def ended() -> Any:
        found: Any = client.batches.retrieve(id)
        if kills and (found.tileq["lines_read"] >= kills[0][0] or found.status == "finalizing"):
            here.send(kills.pop(0)[1], signal.SIGKILL)
        return found.status in ("completed", "failed", "expired", "cancelled") and found

    refuse_unless_complete(client, eventually(ended, WITHIN_S, 0.05), lines)
    assert not kills
