"""Holds an answer to a JSON schema: at each step, the tokens that may come next.

The grammar's state follows the generated tokens, one at a time, in the engine's thread: 25 µs a token for a vocabulary
of 92,553 on one core. The tokens' bytes are laid out once a worker, at the first request that needs them.
"""

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import structlog
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from shared.json_schema import LIMITS, grammar
from shared.tokenization.tokenizer import Tokenizer

log = structlog.get_logger(__name__)


class JsonMask:
    """The mask of one request; called with the tokens generated so far, it returns (vocab,) of those that may come.

    What can't be followed any more ends the answer, and `failure` says why: the answer is then no JSON.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: int, end: int) -> None:
        self.failure = ""
        self._matcher = matcher
        self._bits = np.zeros((vocabulary + 31) // 32, np.int32)
        self._vocabulary = vocabulary
        self._only_end: NDArray[np.bool_] = np.arange(vocabulary) == end
        self._consumed = 0

    def __call__(self, generated: Sequence[int]) -> NDArray[np.bool_]:
        """Follow the tokens that are new since the last call; a shorter list begins again. Raises nothing."""
        if not self.failure:
            try:
                return self._allowed(generated)
            except ValueError as error:
                self.failure = str(error).partition("\n")[0]
                log.warning("an answer can't be held to its schema", error=self.failure)
        return self._only_end

    def _allowed(self, generated: Sequence[int]) -> NDArray[np.bool_]:
        if len(generated) < self._consumed:
            self._matcher.reset()
            self._consumed = 0
        for token in generated[self._consumed :]:
            if not self._matcher.consume_token(token):
                raise ValueError(self._matcher.get_error())
        self._consumed = len(generated)
        if self._matcher.is_stopped():
            return self._only_end
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())
        allowed: NDArray[np.bool_] = np.unpackbits(self._bits.view(np.uint8), bitorder="little").view(np.bool_)
        return allowed[: self._vocabulary]


class JsonMasks:
    """Makes masks for one tokenizer; safe to call from many threads."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, end: int) -> None:
        self._source = tokenizer
        self._vocabulary = vocabulary  #: width of the model's logits
        self._end = end
        self._lock = threading.Lock()

    def mask(self, schema: Mapping[str, Any]) -> JsonMask:
        """Return the mask of a request. Raises `ValueError` for a schema that intake would have refused."""
        with self._lock:
            tokenizer = self._tokenizer
        return JsonMask(LLMatcher(tokenizer, grammar(schema), log_level=0, limits=LIMITS), self._vocabulary, self._end)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        return LLTokenizer(TokenizerWrapper(_Pieces(self._source, self._end, self._vocabulary)))


class _Pieces:
    """The tokenizer as llguidance asks for it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end: int, vocabulary: int) -> None:
        padding = range(tokenizer.size, vocabulary)  # logits are wider than the tokenizer
        self.eos_token_id = end
        self.special_token_ids = [*sorted(tokenizer.rules.special.values()), *padding]
        self.tokens = tokenizer.token_bytes() + [b"<%d>" % token for token in padding]
        self._encode = tokenizer.encode_text

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text if isinstance(text, str) else text.decode(errors="replace"))
