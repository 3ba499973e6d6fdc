"""Batches of files, made and worked on step by step, each step by a process of its own."""

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from services.intake.batches.worker import BatchWorker
from shared.files import FileWriter, content_key
from shared.store import files, transitions
from tests.unit.intake.app_fixture import App

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"


def line(n: int, url: str = CHAT, **changed: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": f"What is {n}?"}]} if url == CHAT else {"input": f"What is {n}?"}
    return {"custom_id": f"line-{n}", "method": "POST", "url": url, "body": body} | changed


def upload(app: App, lines: Sequence[Any], purpose: Any = "batch") -> str:
    writer = FileWriter(app.objects, tenant="local")
    for one in lines:
        writer.write((one if isinstance(one, str) else json.dumps(one)).encode() + b"\n")
    file = writer.close(purpose, "lines.jsonl")
    app.store.run(files.put(file))
    return file.id


def created(app: App, lines: Sequence[Any], **asked: Any) -> str:
    body = {"input_file_id": upload(app, lines), "endpoint": CHAT, "completion_window": "24h"} | asked
    answer = app.http.post("/v1/batches", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "validating"
    return str(answer.json()["id"])


def step(app: App) -> bool:
    """Let a fresh process do one step, as if every earlier one had died."""
    return app.call(partial(BatchWorker(app.context)._work_on_next, asyncio.Event()))


def seen(app: App, id: str) -> dict[str, Any]:
    body: dict[str, Any] = app.http.get(f"/v1/batches/{id}").json()
    return body


def worked(app: App, id: str, until: Callable[[dict[str, Any]], bool], *, answers: bool = True) -> dict[str, Any]:
    """Do steps, and answer what is queued, until the batch is as it should be."""
    for _ in range(200):
        app.store.client.zadd("tileq:batches_due", {id: 0}, xx=True)
        step(app)
        if until(body := seen(app, id)):
            return body
        while answers and (job := app.store.run(transitions.claim("tileq-demo", "w", 60)).value):
            app.succeed(job, f"It is {job.custom_id}.")
    raise AssertionError(body)


def content(app: App, id: str | None) -> list[dict[str, Any]]:
    return [json.loads(text) for text in app.objects.get(content_key(id)).splitlines()] if id else []


def ended(body: dict[str, Any]) -> bool:
    return body["status"] in ("completed", "failed", "expired", "cancelled")
