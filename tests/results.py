"""A result object, as a worker stores it."""

from typing import Literal

from shared.records import JobOutput, StageTimings, TokenUsage
from shared.results import StoredResult


def stored_result(
    text: str = "A sign.", attempt: int = 1, finish_reason: Literal["stop", "length"] = "stop"
) -> StoredResult:
    return StoredResult(
        output=JobOutput(text=text, finish_reason=finish_reason),
        usage=TokenUsage(prompt_tokens=9, image_tokens=5, cached_tokens=0, completion_tokens=2),
        timings=StageTimings(total=1.5, queue=0.1),
        attempt=attempt,
        ended_at="2026-11-18T11:06:40.000Z",
    )
