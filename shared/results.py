"""Result object of an attempt: what the worker stores, and intake, webhooks and the reconciler read.

`jobs/{id}/result-{attempt}.json`, written before the job finishes, so that a lost job record is rebuilt from it.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

MAX_INLINE_OUTPUT_BYTES = 8 << 10  #: of an output of which the job's record keeps a copy


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class JobOutput(_Frozen):
    """The answer."""

    text: str
    finish_reason: Literal["stop", "length"]


class TokenUsage(_Frozen):
    """Tokens of a job."""

    prompt_tokens: int  #: those of the images included
    image_tokens: int
    cached_tokens: int  #: of the prompt, not computed anew
    completion_tokens: int


class StoredResult(_Frozen):
    """The result object. `ended_at` is RFC 3339 in UTC by the store's clock; `timings` are seconds."""

    state: Literal["succeeded"] = "succeeded"
    output: JobOutput
    usage: TokenUsage
    timings: Mapping[str, float]
    attempt: int
    ended_at: str | None

    def to_bytes(self) -> bytes:
        """Return the object's content, JSON in UTF-8."""
        return _dump(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the object's content. Raises `ValueError`."""
        return cls.model_validate_json(data)

    def job_fields(self, key: str) -> dict[str, Any]:
        """Return the fields of the record of a job whose result lies at `key`; a large output stays out of it."""
        output = self.output.model_dump(mode="json")
        return {
            "result": key,
            "output": output if len(_dump(output)) <= MAX_INLINE_OUTPUT_BYTES else None,
            "usage": self.usage.model_dump(mode="json"),
            "timings": dict(self.timings),
        }


def _dump(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
