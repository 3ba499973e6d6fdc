"""Result object of an attempt: what the worker stores, and intake, webhooks and the reconciler read.

`jobs/{id}/result-{attempt}.json`, written before the job finishes, so that a lost job record is rebuilt from it.
"""

from typing import Any, Literal, Self

from pydantic_core import to_json

from shared.records import JobImage, JobOutput, RecordValue, StageTimings, TokenUsage

MAX_INLINE_OUTPUT_BYTES = 8 << 10  #: of an output of which the job's record keeps a copy


class StoredResult(RecordValue):
    """The result object. `ended_at` is RFC 3339 in UTC by the store's clock; `timings` are seconds."""

    state: Literal["succeeded"] = "succeeded"
    output: JobOutput
    usage: TokenUsage
    timings: StageTimings
    attempt: int
    ended_at: str | None
    images: list[JobImage] | None = None  #: of a job that named some by URL: what a worker found there

    def to_bytes(self) -> bytes:
        """Return the object's content, JSON in UTF-8."""
        return to_json(self, exclude=None if self.images else {"images"})

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the object's content. Raises `ValueError`."""
        return cls.model_validate_json(data)

    def job_fields(self, key: str) -> dict[str, Any]:
        """Return the fields of the record of a job whose result lies at `key`; a large output stays out of it."""
        return {
            "result": key,
            "output": self.output if len(to_json(self.output)) <= MAX_INLINE_OUTPUT_BYTES else None,
            "finish_reason": self.output.finish_reason,
            "usage": self.usage,
            "timings": self.timings,
            **({"images": self.images} if self.images else {}),
        }
