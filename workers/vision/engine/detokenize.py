"""Generated ids to text that is final piece by piece, and is in the end what the original would have written.

The original decodes all ids, cleans spaces up, cuts at the template's separator and strips. So nothing is handed out
that could still change: bytes of an incomplete character, spaces a clean-up may swallow, white space at the end, and
whatever may be the beginning of a stop string.
"""

from collections.abc import Sequence

from shared.tokenization.detokenizer import CLEAN_UP_HORIZON_CHARS
from shared.tokenization.tokenizer import Tokenizer
from workers.vision.engine.base import EngineRequest


class IncrementalDetokenizer:
    """Turns the ids of one answer into text piece by piece. `text` is what was handed out so far."""

    def __init__(
        self, tokenizer: Tokenizer, stops: Sequence[str], *, exact: bool = False, end: int | None = None
    ) -> None:
        """With `exact` no space is swallowed: the text is what a grammar allowed. `end`: the token that ends it."""
        self._tokenizer = tokenizer
        self._swallows = tokenizer.rules.clean_up and not exact
        self._decoder = tokenizer.decoder()
        self._stops = tuple(stops)
        self.text = ""
        self._end = end
        self._cut = False  # at a stop string
        self.stopped = False  #: the end or a stop string was reached

    def push(self, token: int) -> str:
        """Take one id; return the text that became final."""
        if token == self._end:
            self.stopped = True
            return ""
        self._decoder.push([token])
        raw = self._decoder.text
        clean = self._tidy(raw)
        end = self._stop(clean)
        if end is not None:
            self.stopped = self._cut = True
            return self._hand_out(clean[:end].strip())
        return self._hand_out(self._certain(raw, clean).lstrip())

    def finish(self) -> str:
        """Return what was held back: the ids are all there."""
        if self._cut:
            return ""
        clean = self._tidy(self._decoder.text + self._decoder.pending)
        return self._hand_out(clean[: self._stop(clean)].strip())

    def _tidy(self, text: str) -> str:
        return self._tokenizer.tidy(text) if self._swallows else text

    def _stop(self, text: str) -> int | None:
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        return min(places) if places else None

    def _certain(self, raw: str, clean: str) -> str:
        """The part of `clean` that no further id can change."""
        if self._swallows and (space := raw.find(" ", max(0, len(raw) - CLEAN_UP_HORIZON_CHARS))) >= 0:
            clean = clean[: len(clean) - (len(raw) - space)]
        held = max((_overlap(clean, stop) for stop in self._stops), default=0)
        return clean[: len(clean) - held].rstrip()

    def _hand_out(self, text: str) -> str:
        delta = text[len(self.text) :]
        self.text += delta
        return delta


def detokenizer_of(request: EngineRequest, tokenizer: Tokenizer, separator: str) -> IncrementalDetokenizer:
    """The one of a request; `separator`: the template's, whose token ends an answer, and alone that of a grammar."""
    exact = request.token_mask is not None
    stops = () if exact else (separator, *request.sampling.stop)
    return IncrementalDetokenizer(tokenizer, stops, exact=exact, end=tokenizer.token_id(separator))


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
