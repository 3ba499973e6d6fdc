"""A faster way to compute something, used only while it agrees with its twin in plain torch and is not slower.

Both run on the device that serves, on a small input, when a worker starts. What came of it is reported, and shows on
`/metrics` as the state of the path.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor

from workers.vision.checkpoint.cache import Report

State = Literal["used", "missing", "failed", "wrong", "slower"]
STATES: tuple[State, ...] = ("used", "missing", "failed", "wrong", "slower")
Way = Callable[..., Tensor]
WAY = TypeVar("WAY")

REPETITIONS, MAX_TIMING_S = 6, 1.0  # the best of so many timings, or of those that begin before the time is over
CALLS = 10  # in a row for one timing
MIN_SPEEDUP = 0.9  # below it the twin is used; nearer to 1 the noise of a timing would decide
#: Largest difference as a part of the largest output: sums in another order differ by less.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class FastPath:
    """What was found about a path."""

    name: str
    state: State
    detail: str
    deviation: float | None = None  #: largest difference as a part of the largest output
    speedup: float | None = None  #: times as fast as the twin

    def __str__(self) -> str:
        return f"{self.name}: {self.state}, {self.detail}"


def choose(  # noqa: PLR0917 - a name, two ways and how to compare them
    name: str,
    fast: Callable[[], WAY],
    twin: WAY,
    arguments: Sequence[object],
    report: Report,
    calling: Callable[[WAY], Way] = lambda way: cast(Way, way),
) -> tuple[WAY, FastPath]:
    """Take what `fast` loads if it is right and not slower than `twin` on `arguments`, else `twin`. Raises nothing.

    `calling` makes of either what is called with the arguments; without it, they are called themselves.
    """
    try:
        loaded = fast()
    except (ImportError, OSError, RuntimeError) as error:
        found = FastPath(name, "missing", f"plain torch takes its place, because it can't be loaded: {error!r}")
    else:
        found = _compared(name, calling(loaded), calling(twin), arguments)
    report(str(found))
    return (loaded if found.state == "used" else twin), found


def _compared(name: str, fast: Way, twin: Way, arguments: Sequence[object]) -> FastPath:
    expected = twin(*arguments)
    try:
        found = fast(*arguments)
        deviation = deviation_of(found, expected)
        speedup = _seconds(twin, arguments, expected.device) / _seconds(fast, arguments, expected.device)
    except Exception as error:  # whatever a compiler or driver raises: the worker serves without the path
        return FastPath(name, "failed", f"plain torch takes its place: {error!r}")
    detail = f"off by {deviation:.1e} of the largest output, {speedup:.2f}x as fast as plain torch"
    state: State = "used"
    if not deviation <= TOLERANCES[expected.dtype]:  # NaN is wrong too
        state = "wrong"
    elif speedup < MIN_SPEEDUP:
        state = "slower"
    return FastPath(name, state, detail, deviation, speedup)


def deviation_of(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a part of the largest expected output; infinity for another shape or dtype."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    largest = expected.double().abs().max().clamp(min=1e-12)
    return float((found.double() - expected.double()).abs().max() / largest)


def _seconds(way: Way, arguments: Sequence[object], device: torch.device) -> float:
    """Of one call, the best of several rounds; the first round warms up."""
    best, first = float("inf"), time.perf_counter()
    for repetition in range(REPETITIONS):
        _synchronise(device)
        began = time.perf_counter()
        if repetition > 1 and began - first > MAX_TIMING_S:
            break
        for _ in range(CALLS):
            way(*arguments)
        _synchronise(device)
        best = min(best, (time.perf_counter() - began) / CALLS)
    return best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
