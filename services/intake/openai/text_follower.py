"""The text that a client has, who can't be told to forget any: OpenAI's streams know no reset.

An attempt of a job that was lost is followed by another that begins anew. While it says again what the client has,
nothing is sent; what goes beyond that is. An attempt that says something else can't be streamed behind it.
"""

import structlog

log = structlog.get_logger(__name__)


class TextFollower:
    """Turns pieces and resets of a job's stream into pieces that only ever append."""

    def __init__(self, job: str) -> None:
        self.sent = ""
        self.diverged = False
        self._job = job
        self._current = ""

    def feed(self, piece: str) -> str:
        """Return what of `piece`, the next of the present attempt, the client does not have."""
        self._current += piece
        if self.diverged or self.sent.startswith(self._current):
            return ""
        if not self._current.startswith(self.sent):
            self.diverged = True
            log.warning("another attempt generated another text, its pieces are not streamed", job=self._job)
            return ""
        fresh = self._current[len(self.sent) :]
        self.sent = self._current
        return fresh

    def reset(self) -> None:
        """The present attempt begins anew."""
        self._current = ""
