"""Decides after an attempt: delivered, failed, or again after a delay. Pure; knows neither HTTP nor store.

2xx ────────────────────────────> delivered
410, a test, schedule used up ──> failed
anything else, or no response ──> again, after the planned wait or Retry-After, at most twice the planned wait
"""

import email.utils
import re
from collections.abc import Sequence
from dataclasses import dataclass

from shared.deliveries import DeliveryOutcome

#: Statuses of an overloaded host: like no response, they count towards its circuit breaker. Any other status comes from
#: a healthy host, even where it refuses this message; other tenants may share the host.
OVERLOAD_STATUSES = (429, 502, 503, 504)
#: Time that a due message may wait for other messages: the longest pause of a host (60 s), and as long for its queue.
QUEUEING_ALLOWANCE_S = 120.0


@dataclass(frozen=True)
class Decision:
    """What happens to a message after an attempt."""

    outcome: DeliveryOutcome
    healthy: bool  #: the host responded and is not overloaded
    delay: float = 0  #: seconds until the next attempt, where there is one


def decide(
    *,
    attempts_in_schedule: int,
    age: float,
    status: int | None,
    retry_after: float,
    single_shot: bool,
    schedule: Sequence[float],
    jitter: float,
) -> Decision:
    """Decide after the next attempt of a message whose schedule began `age` seconds ago.

    `attempts_in_schedule`: attempts before this one; `jitter`: 0..1, times a tenth of the planned wait.

    A message older than its whole window, because its host was paused, is not delayed again: every message ends.
    """
    healthy = status is not None and status not in OVERLOAD_STATUSES
    if status is not None and 200 <= status < 300:
        return Decision("delivered", healthy)
    if status == 410 or single_shot or attempts_in_schedule >= len(schedule) or age > window(schedule):
        return Decision("failed", healthy)
    planned = schedule[attempts_in_schedule]
    wait = min(max(planned, retry_after), 2 * planned)
    return Decision("again", healthy, wait + 0.1 * planned * jitter)


def window(schedule: Sequence[float]) -> float:
    """Return the seconds within which attempts are made: doubled waits, jitter, and an allowance for queueing."""
    return 2.1 * sum(schedule) + QUEUEING_ALLOWANCE_S * (len(schedule) + 1)


def parse_retry_after(header: str, now: float) -> float:
    """Parse Retry-After (RFC 9110, 10.2.3) into seconds from `now` (epoch seconds); 0 where it is absent or invalid."""
    text = header.strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text[:12])  # 30,000 years
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0
