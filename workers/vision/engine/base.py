"""What an engine is: requests go in, events come out, one at a time or many at once.

    submit ──> Stage("vision") ──> Stage("prefill") ──> Stage("decode") ──> Delta … ──> Done
                  (left out without images)                                    │
    cancel ────────────────────────────────────────────────────────────> raises Cancelled

The texts of all deltas of a request, joined, are exactly `Done.text`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.vision.engine.stats import EngineStats
from workers.vision.prompts import Prompt

#: Takes the ids generated so far, returns (vocab,) of those that may come next.
TokenMask = Callable[[Sequence[int]], NDArray[np.bool_]]
StageName = Literal["vision", "prefill", "decode"]
Tiles = NDArray[np.uint8]  #: (T, side, side, 3), row by row, the thumbnail last; (0, …) for a request without images


DEFAULT_TOP_K = 50  #: of transformers' GenerationConfig, and so of generation under the card's code
MIN_TEMPERATURE = 1e-3  #: below it logits divided by it may leave float32, and the draw is the most likely token anyway


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen and when to stop. Refuses what no engine can do."""

    max_new_tokens: int = 512
    temperature: float = 0  #: 0 is greedy
    top_p: float | None = None
    top_k: int | None = None  #: None: 50, as generation under the card's code; 0: no limit
    repetition_penalty: float | None = None  #: over generated tokens only, as in the card's code
    num_beams: int = 1
    seed: int | None = None  #: the same seed gives the same text on the same device
    stop: tuple[str, ...] = ()  #: the text ends before the first of these

    def __post_init__(self) -> None:
        checks = {
            "max_new_tokens must be at least 1": self.max_new_tokens >= 1,
            "temperature must not be negative": self.temperature >= 0,
            "top_p must be above 0 and at most 1": self.top_p is None or 0 < self.top_p <= 1,
            "top_k must not be negative": self.top_k is None or self.top_k >= 0,
            "repetition_penalty must be above 0": self.repetition_penalty is None or self.repetition_penalty > 0,
            "num_beams must be at least 1": self.num_beams >= 1,
            "stop must not hold an empty string": all(self.stop),
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(message)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken: at temperature 0, and where dividing by it would overflow."""
        return self.temperature < MIN_TEMPERATURE


@dataclass(frozen=True)
class EngineRequest:
    """One question: the exact prompt, the tiles in the order of its image tokens, how to answer.

    Raises `ValueError` for another number of tiles than the prompt has places for.
    """

    id: str
    prompt: Prompt
    tiles: Tiles
    sampling: Sampling
    priority: int = 1  #: as a job's: the smaller is served first
    cache_salt: str = ""  #: only requests of one salt share the keys and values of equal prompts
    token_mask: TokenMask | None = None
    deadline: float | None = None  #: `time.monotonic()` after which no answer is wanted any more

    def __post_init__(self) -> None:
        places = sum(span.tiles for span in self.prompt.images)
        if places != len(self.tiles):
            raise ValueError(f"the prompt has image tokens for {places} tiles, but there are {len(self.tiles)}")


@dataclass(frozen=True)
class Stage:
    """The request has reached this stage."""

    name: StageName


@dataclass(frozen=True)
class Delta:
    """Text that is final: nothing that follows changes it."""

    text: str
    completion_tokens: int  #: generated so far


@dataclass(frozen=True)
class Done:
    """The answer."""

    text: str
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    image_tokens: int
    cached_tokens: int
    completion_tokens: int
    timings: dict[str, float]  #: seconds of `vision`, `prefill`, `decode`, and until the `first_token`


Event = Stage | Delta | Done


class Engine(Protocol):
    """Safe to call from many threads."""

    @property
    def slots(self) -> int:
        """Requests worth holding at once."""

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        """Yield the request's events; leaving the iterator early cancels it."""

    def cancel(self, request_id: str) -> None:
        """Make the request raise `Cancelled` within one step, waiting or running. Unknown ids are ignored."""

    def stats(self) -> EngineStats:
        """The figures of this moment."""

    def close(self) -> None:
        """Cancel what is in it and let go of the device."""
