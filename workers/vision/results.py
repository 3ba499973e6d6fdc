"""An answer as it is kept: the result object, and the copy of it in the job's record."""

import json
from typing import Any

from prometheus_client import Counter

from shared.views import moment
from workers.vision.engine.base import Done
from workers.vision.hands import SECONDS, Held

INLINE = 8 << 10  #: bytes of an output of which the record keeps a copy

TOKENS = Counter("tileq_vision_tokens_total", "Tokens of answered jobs", ["kind"])


def write(held: Held, done: Done) -> tuple[bytes, dict[str, Any]]:
    """Return the result object of this attempt, and the fields of its record."""
    held.timings |= {stage: done.timings[stage] for stage in ("vision", "prefill", "decode")}
    held.timings.setdefault("first_token", held.age)  # of an answer without text
    held.timings["total"] = held.age
    held.progress["completion_tokens"] = done.completion_tokens
    output = {"text": done.text, "finish_reason": done.finish_reason}
    told = {
        "usage": {
            "prompt_tokens": done.prompt_tokens,
            "image_tokens": done.image_tokens,
            "cached_tokens": done.cached_tokens,
            "completion_tokens": done.completion_tokens,
        },
        "timings": {stage: round(seconds, 4) for stage, seconds in held.timings.items()},
    }
    end = {"attempt": held.job.attempt, "ended_at": moment(held.now)}
    copy = {"output": output} if len(_dump(output)) <= INLINE else {}
    return _dump({"state": "succeeded", "output": output, **told, **end}), copy | told


def count(held: Held) -> None:
    """Add an answered job to the metrics."""
    for stage, seconds in held.timings.items():
        SECONDS.labels(stage).observe(seconds)
    for kind in ("prompt", "completion"):
        TOKENS.labels(kind).inc(float(held.progress[f"{kind}_tokens"]))


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
