"""What an answer means for the message: delivered, failed, or again and when. Pure; knows neither HTTP nor store.

2xx ────────────────────────────> delivered
410, a test, schedule used up ──> failed
anything else, or no answer ────> again, after the planned wait or what Retry-After asks, at most twice the plan
"""

import email.utils
import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared.deliveries import DeliveryOutcome

#: Answers that say "slow down": like silence, they count towards the pause of a host. Any other answer comes from a
#: host that is well, whatever it thinks of this one message; others may share the host.
_STRAINED = (429, 502, 503, 504)
#: Seconds that a due message may fairly wait for its turn: a host's longest pause (60), and as long for its neighbours.
TURN = 120.0


@dataclass(frozen=True)
class Decision:
    """What becomes of a message after an attempt."""

    outcome: DeliveryOutcome
    healthy: bool  #: the host answered as a host that is well does
    delay: float = 0  #: until the next attempt, where there is one


def decide(
    *,
    tried: int,
    age: float,
    status: int | None,
    retry_after: float,
    once: bool,
    schedule: Sequence[float],
    jitter: float,
) -> Decision:
    """Decide after attempt `tried` + 1 of a message whose schedule began `age` seconds ago; `jitter` is in 0..1.

    A message that waited at a paused host past its whole window is not put off once more, so every message ends.
    """
    healthy = status is not None and status not in _STRAINED
    if status is not None and 200 <= status < 300:
        return Decision("delivered", healthy)
    if status == 410 or once or tried >= len(schedule) or age > window(schedule):
        return Decision("failed", healthy)
    planned = schedule[tried]
    wait = min(max(planned, retry_after), 2 * planned)
    return Decision("again", healthy, wait + 0.1 * planned * jitter)


def window(schedule: Sequence[float]) -> float:
    """Return how long attempts may go on: waits doubled by Retry-After, a tenth of jitter, and `TURN` for each."""
    return 2.1 * sum(schedule) + TURN * (len(schedule) + 1)


def wait_asked(header: str, now: float) -> float:
    """Read Retry-After, seconds or a date, as seconds from `now` (epoch seconds); 0 where it is absent or garbage."""
    text = header.strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text[:12])  # thirty thousand years are enough
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0
