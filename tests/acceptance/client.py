"""A backend as small as can be: what it posts and how it waits."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from tests.waiting import eventually

Json = dict[str, Any]
ENDED = ("succeeded", "failed", "cancelled", "expired")


def data_uri(image: bytes, media_type: str = "image/png") -> str:
    """Return `image` as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"


@dataclass
class Client:
    """Calls of the API, each returning what it answered."""

    http: httpx.Client

    def submit(
        self, prompt: str | None = "What is this?", *images: bytes, headers: Json | None = None, **fields: Any
    ) -> Json:
        """Submit as JSON; the job of the 202."""
        answer = self.post(prompt, *images, headers=headers, **fields)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def post(self, prompt: str | None, *images: bytes, headers: Json | None = None, **fields: Any) -> httpx.Response:
        """Submit as JSON; whatever it answers."""
        body = fields | ({"prompt": prompt} if prompt is not None else {})
        if images:
            body["images"] = [data_uri(image) for image in images]
        return self.http.post("/v1/jobs", json=body, headers=headers)

    def job(self, id: str, **query: Any) -> Json:
        """The job as it is, or after `wait` seconds at most."""
        answer = self.http.get(f"/v1/jobs/{id}", params=query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def ended(self, id: str, within: float = 40) -> Json:
        """The job once it ended."""
        return eventually(lambda: self._if_ended(id), within)

    def reaches(self, id: str, state: str, within: float = 20) -> Json:
        """The job once it is in `state`."""
        return eventually(lambda: job if (job := self.job(id))["state"] == state else None, within) or {}

    def cancel(self, id: str) -> Json:
        """The outcome of a cancellation."""
        answer = self.http.post(f"/v1/jobs/{id}/cancel")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def _if_ended(self, id: str) -> Json | None:
        job = self.job(id, wait=5)
        return job if job["state"] in ENDED else None


def events(answer: httpx.Response) -> Iterator[tuple[str, str, Json]]:
    """Yield (id, event, data) of a text/event-stream until it closes."""
    fields: dict[str, str] = {}
    for line in answer.iter_lines():
        if not line and "event" in fields:
            yield fields.get("id", ""), fields["event"], json.loads(fields.get("data", "null"))
            fields = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
