"""Text as it is generated: one capped stream of deltas per job, on a Redis that may live without AOF.

Losing any of it costs a client a `reset`, never a job: the offset in every delta lets a reader see a gap, and the
record and result object have the whole text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

#: Deltas kept per job; 50 ms each, so some minutes of text.
MOST = 4000
#: Seconds that a stream outlives its last delta.
KEEP = 3600


@dataclass(frozen=True)
class TextDelta:
    """A piece of one attempt's text, beginning at character `offset`."""

    attempt: int
    offset: int
    text: str

    def fields(self) -> dict[Any, Any]:
        """Return the fields of its stream entry."""
        return {"attempt": self.attempt, "offset": self.offset, "text": self.text}

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> Self:
        """Build it from a stream entry."""
        return cls(int(fields["attempt"]), int(fields["offset"]), fields["text"])


def stream_key(prefix: str, job: str) -> str:
    """Return the key of the stream of `job`."""
    return f"{prefix}events:{job}"


def changes_channel(prefix: str) -> str:
    """Return the channel on which the store names every job or message that changed."""
    return f"{prefix}changes"
