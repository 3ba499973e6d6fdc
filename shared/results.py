"""Result of an attempt. Where the output is too large for the job's record, it is an object.

`jobs/{id}/result-{attempt}.json` is written before the job finishes; the worker stores it, and intake, webhooks and the
reconciler read it. Former releases stored every result so.
"""

from typing import Any, Literal, Self

from pydantic_core import to_json

from shared.records import JobOutput, RecordValue, StageTimings, TokenUsage

MAX_INLINE_OUTPUT_BYTES = 8 << 10  #: of an output that the job's record keeps


class StoredResult(RecordValue):
    """The result object. `ended_at` is RFC 3339 in UTC by the store's clock; `timings` are seconds."""

    state: Literal["succeeded"] = "succeeded"
    output: JobOutput
    usage: TokenUsage
    timings: StageTimings
    attempt: int
    ended_at: str | None

    def to_bytes(self) -> bytes:
        """Return the object's content, JSON in UTF-8."""
        return to_json(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the object's content. Raises `ValueError`."""
        return cls.model_validate_json(data)

    @property
    def fits_record(self) -> bool:
        """Whether the job's record keeps the output, so that it needs no object."""
        return len(to_json(self.output)) <= MAX_INLINE_OUTPUT_BYTES

    def job_fields(self, key: str) -> dict[str, Any]:
        """Return the fields of the record of a job whose result lies at `key` ("": nowhere), without a large output."""
        return {
            "result": key,
            "output": self.output if self.fits_record else None,
            "finish_reason": self.output.finish_reason,
            "usage": self.usage,
            "timings": self.timings,
        }
