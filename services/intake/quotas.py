"""Refusals by the limits of a tenant, in words."""

from services.intake.metrics import LIMITED
from shared.errors import LimitPassed, QuotaExceeded, RateLimited
from shared.limits import LimitState


def quota_exceeded(state: LimitState, jobs: int = 1) -> LimitPassed:
    """Return the refusal of a request that would pass the limit `state`, and count it. `jobs`: how many it submits."""
    LIMITED.labels(state.name).inc()
    if state.name == "requests":
        return RateLimited(
            f"this tenant may send {state.limit} requests a minute; repeat the request later", limit=state
        )
    details = {
        "queued": f"this tenant may have {state.limit} queued jobs, and has room for {state.remaining}"
        + (f"; {jobs} at once never fit" if jobs > state.limit else ""),
        "bytes": f"this tenant's images may take {state.limit} bytes a day (UTC), of which {state.remaining} are left",
        "tokens": f"the {state.limit} tokens that may be generated for this tenant a day (UTC) are used up",
    }
    return QuotaExceeded(f"{details[state.name]}; nothing was accepted", limit=state)
