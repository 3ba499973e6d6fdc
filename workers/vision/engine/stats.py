"""What an engine counts and measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field


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
