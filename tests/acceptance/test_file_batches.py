"""A batch of a file by OpenAI's SDK against the real servers, while its process is killed again and again."""

import json
import random
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.service import Service, service
from tests.waiting import eventually

pytestmark = pytest.mark.acceptance

LINES = 200


@pytest.fixture(scope="module")
def here() -> Iterator[Service]:
    with service(engine="echo", env={"TILEQ_BATCH_QUEUED": "40", "TILEQ_ECHO_TILES": "false"}) as running:
        yield running


def line(n: int) -> str:
    body = {"messages": [{"role": "user", "content": f"What is {n}?"}]}
    return json.dumps({"custom_id": f"line-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body})


@pytest.mark.parametrize("kills", [0, 6])
def test_every_line_is_answered_exactly_once(here: Service, kills: int) -> None:
    client = OpenAI(base_url=f"{here.url}/v1", api_key="EMPTY")
    content = "\n".join(map(line, range(LINES))).encode()
    file = client.files.create(file=("lines.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    dice = random.Random(20261125)
    stops = sorted(dice.sample(range(LINES), kills))

    def ended() -> Any:
        found: Any = client.batches.retrieve(batch.id)
        if stops and (found.tileq["lines_read"] >= stops[0] or found.status == "finalizing"):
            stops.pop(0)
            here.send("batches", signal.SIGKILL)
        return found if found.status in ("completed", "failed", "expired", "cancelled") else None

    done = eventually(ended, within=60)
    assert done.status == "completed"
    assert done.request_counts.model_dump() == {"total": LINES, "completed": LINES, "failed": 0}
    answers = [json.loads(text) for text in client.files.content(done.output_file_id).text.splitlines()]
    assert [one["custom_id"] for one in answers] == [f"line-{n}" for n in range(LINES)]
    assert all(one["response"]["body"]["choices"][0]["message"]["content"] for one in answers)
