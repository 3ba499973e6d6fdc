"""Text as it is generated: one capped stream of deltas per job, on a Redis that may live without AOF.

Losing any of it costs a client a `reset`, never a job: the offset in every delta lets a reader see a gap, and the
record and result object have the whole text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

#: Deltas kept per job; 50 ms each, so some minutes of text.
STREAM_MAXLEN = 4000
#: A stream expires this long after its last delta.
STREAM_TTL_S = 3600


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
    def from_entry(cls, fields: Mapping[str, str]) -> Self:
        """Build it from a stream entry."""
        return cls(int(fields["attempt"]), int(fields["offset"]), fields["text"])


def stream_key(prefix: str, job: str) -> str:
    """Return the key of the stream of `job`."""
    return f"{prefix}events:{job}"


def changes_channel(prefix: str) -> str:
    """Return the channel on which the store publishes the id of every job or delivery that changed.

    Where the state of a job changed, a space and the new state follow the id.
    """
    return f"{prefix}changes"


def deliveries_channel(prefix: str) -> str:
    """Return the channel on which the store publishes the id of every new delivery, which is due at once."""
    return f"{prefix}deliveries"
