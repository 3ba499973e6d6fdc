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
Way = Callable[..., Tensor]
WAY = TypeVar("WAY")

ROUNDS, MAX_ROUNDS = 4, 32  # both sides by turns; more than the first only while a path seems slower
CALLS = 10  # timed one by one in a round, as far as they fit into its time
ROUND_S = 0.01
CLEAR_SPEEDUP, CLEAR_ROUNDS = 4, 2  # after which a twin, which may take seconds, is not timed again
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
    *,
    tolerance: float | None = None,
) -> tuple[WAY, FastPath]:
    """Take what `fast` loads if it is right and not slower than `twin` on `arguments`, else `twin`. Raises nothing.

    `calling` makes of either what is called with the arguments; without it, they are called themselves. `tolerance`
    takes the place of that of the dtype.
    """
    try:
        loaded = fast()
    except (ImportError, OSError, RuntimeError) as error:
        found = FastPath(name, "missing", f"plain torch takes its place, because it can't be loaded: {error!r}")
    else:
        found = _compared(name, calling(loaded), calling(twin), arguments, tolerance)
    report(str(found))
    return (loaded if found.state == "used" else twin), found


def _compared(name: str, fast: Way, twin: Way, arguments: Sequence[object], tolerance: float | None) -> FastPath:
    expected = twin(*arguments)
    try:
        found = fast(*arguments)
        deviation = deviation_of(found, expected)
        speedup = _speedup(fast, twin, arguments, expected.device)
    except Exception as error:  # whatever a compiler or driver raises: the worker serves without the path
        return FastPath(name, "failed", f"plain torch takes its place: {error!r}")
    detail = f"off by {deviation:.1e} of the largest output, {speedup:.2f}x as fast as plain torch"
    state: State = "used"
    if not deviation <= (tolerance or TOLERANCES[expected.dtype]):  # NaN is wrong too
        state = "wrong"
    elif speedup < MIN_SPEEDUP:
        state = "slower"
    return FastPath(name, state, detail, deviation, speedup)


def _speedup(fast: Way, twin: Way, arguments: Sequence[object], device: torch.device) -> float:
    """Times as fast as the twin, by the best call of each.

    Other work on the machine can only lengthen a call. So two rounds are enough where the difference is clear, and a
    path that seems slower gets many more, until both sides had a call that nobody disturbed.
    """
    sides, best_s, speedup = [(0, twin), (1, fast)], [float("inf")] * 2, 0.0
    for turn in range(1, MAX_ROUNDS + 1):
        for side, way in sides:
            best_s[side] = min(best_s[side], _seconds(way, arguments, device))
        sides.reverse()
        speedup = best_s[0] / best_s[1]
        if turn >= (CLEAR_ROUNDS if speedup > CLEAR_SPEEDUP else ROUNDS) and speedup >= MIN_SPEEDUP:
            break
    return speedup


def deviation_of(found: Tensor, expected: Tensor) -> float:
    """Largest difference as a part of the largest expected output; infinity for another shape or dtype."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    largest = expected.double().abs().max().clamp(min=1e-12)
    return float((found.double() - expected.double()).abs().max() / largest)


def _seconds(way: Way, arguments: Sequence[object], device: torch.device) -> float:
    """Of the best call of a round; on a GPU of the best few in a row, whose launches are hidden behind one another."""
    fastest, in_a_row, ends = float("inf"), 1, time.perf_counter() + ROUND_S
    for _ in range(CALLS):
        _synchronise(device)
        began = time.perf_counter()
        for _ in range(in_a_row):
            way(*arguments)
        _synchronise(device)
        now = time.perf_counter()
        fastest = min(fastest, (now - began) / in_a_row)
        if now >= ends:
            break
        if device.type == "cuda":
            in_a_row = max(1, min(CALLS, int((ends - now) / max(fastest, 1e-9))))
    return fastest


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
