"""Limits of tenants: a request is counted before its body is read, refused above a limit, and shown what is left.

The header fields are those of draft-ietf-httpapi-ratelimit-headers-10: `RateLimit-Policy: "requests";q=600;w=60` and
`RateLimit: "requests";r=599;t=1`, and OpenAI's `x-ratelimit-…` for the limits that it has too. This module is the one
place that writes them.
"""

import math
from collections.abc import Iterator, Sequence

from starlette.requests import Request

from services.intake.principal import Principal
from services.intake.quotas import quota_exceeded
from shared.limits import WINDOW_S, LimitState, TenantLimits
from shared.store import limits
from shared.store.client import AsyncStore

_OPENAI_LIMITS = ("requests", "tokens")


class RateLimiter:
    """Counts requests in the job store: one round trip for a tenant with limits, none for others."""

    def __init__(self, store: AsyncStore) -> None:
        self._store = store

    async def admit(self, request: Request, principal: Principal, *, submission: TenantLimits) -> None:
        """Count `request`, which is held to the limits `submission` too.

        Raises `RateLimited`, `QuotaExceeded` where nothing would be accepted, or `QueueUnavailable`.
        """
        requests = principal.limits.tenant.requests
        if not requests and not submission.of_submissions:
            return
        admitted, states = await self._store.run(limits.admit(principal.tenant, requests, submission))
        show_limits(request, states)
        if not admitted:
            raise quota_exceeded(states[-1])


def show_limits(request: Request, states: Sequence[LimitState]) -> None:
    """Let the answer to `request` tell of these limits, beside those that it tells of already."""
    shown: dict[str, LimitState] = getattr(request.state, "limits", {})
    request.state.limits = shown | {state.name: state for state in states}


def limit_headers(request: Request) -> Iterator[tuple[bytes, bytes]]:
    """Yield the header fields of the limits that `request` was held to."""
    shown: dict[str, LimitState] = getattr(request.state, "limits", {})
    if shown:
        yield b"ratelimit-policy", ", ".join(map(_policy, shown.values())).encode()
        yield b"ratelimit", ", ".join(map(_left, shown.values())).encode()
    for name in _OPENAI_LIMITS:
        if state := shown.get(name):
            yield f"x-ratelimit-limit-{name}".encode(), str(state.limit).encode()
            yield f"x-ratelimit-remaining-{name}".encode(), str(state.remaining).encode()
            yield f"x-ratelimit-reset-{name}".encode(), f"{_reset_s(state)}s".encode()


def _policy(state: LimitState) -> str:
    window = WINDOW_S[state.name]
    return f'"{state.name}";q={state.limit}' + (f";w={window}" if window else "")


def _left(state: LimitState) -> str:
    return f'"{state.name}";r={state.remaining};t={_reset_s(state)}'


def _reset_s(state: LimitState) -> int:
    return max(0, math.ceil(state.reset_s))
