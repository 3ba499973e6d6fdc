"""What an engine is: requests go in, events come out, one at a time or many at once.

    submit ──> Stage("vision") ──> Stage("prefill") ──> Stage("decode") ──> Delta … ──> Done
                  (left out without images)                                    │
    cancel ────────────────────────────────────────────────────────────> raises Cancelled

The texts of all deltas of a request, joined, are exactly `Done.text`.

EngineError
├── Cancelled, DeadlineExceeded, OutOfMemory, ContextExceeded, NonFiniteLogits    this request only
└── EngineFailed: EngineClosed, DeviceLost                                        this and every later request
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from workers.vision.prompts import Prompt

#: Takes the ids generated so far, returns (vocab,) of those that may come next.
TokenMask = Callable[[Sequence[int]], NDArray[np.bool_]]
Tiles = NDArray[np.uint8]  #: (T, side, side, 3), row by row, the thumbnail last; (0, …) for a request without images


DEFAULT_TOP_K = 50  #: of transformers' GenerationConfig, and so of generation under the card's code
MIN_TEMPERATURE = 1e-3  #: below it logits divided by it may leave float32, and the draw is the most likely token anyway


class EngineError(Exception):
    """The engine could not answer a request."""


class Cancelled(EngineError):
    """The request was cancelled and has left the engine."""


class OutOfMemory(EngineError):
    """The device had no memory for this request beside its neighbours; later it may."""


class ContextExceeded(EngineError):
    """The prompt leaves no room for an answer in the model's context."""


class NonFiniteLogits(EngineError):
    """The model computed NaN or infinity for this request; no token can be chosen."""

    def __init__(self, message: str = "the model computed NaN or infinity for this request") -> None:
        super().__init__(message)


class DeadlineExceeded(EngineError):
    """The request's deadline passed, or passes before its first token could come."""


class EngineFailed(EngineError):
    """The engine answers no request any more; its process has to end."""


class EngineClosed(EngineFailed):
    """The engine was closed and takes no further request."""


class DeviceLost(EngineFailed):
    """The device reported an error after which every call to it fails."""


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

    name: Literal["vision", "prefill", "decode"]


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


@dataclass(frozen=True)
class EngineStats:
    """A moment's figures, for metrics and the watchdog."""

    running: int = 0
    waiting: int = 0
    finished: int = 0
    generated_tokens: int = 0
    busy_since: float | None = None  #: `time.monotonic()` at which the step in progress began; None: idle
    step_allowance: float = 0.0  #: seconds that this step may take at the device's measured speed; 0: unknown
    memory_bytes: int | None = None  #: held on the device; None: unknown
    pages: int = 0  #: of keys and values; this and what follows is of the resident engine
    cache_tokens: int = 0  #: whose keys and values all pages hold together
    used_pages: int = 0  #: by requests
    shared_pages: int = 0  #: whose content other requests can find
    feature_bytes: int = 0  #: of image features kept
    encoded_tiles: int = 0
    feature_hits: int = 0  #: tiles whose features were kept
    prompt_tokens: int = 0  #: of finished requests
    cached_tokens: int = 0  #: of these, found in the cache
    preemptions: int = 0  #: requests that had to begin again for want of pages
    steps: int = 0
    discarded_rows: int = 0  #: computed for requests that had ended; at most one of an answer that its tokens end
    computed: Mapping[tuple[str, str], int] = field(default_factory=dict)  #: by unit and use, see `ModelRunner`
    step_s: Mapping[str, float] = field(default_factory=dict)  #: seconds spent in all steps, by part
    fast_paths: Mapping[str, str] = field(default_factory=dict)  #: state of each path compared with plain torch
    fast_path_details: Mapping[str, str] = field(default_factory=dict)  #: how they compared, or why one is not used


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
