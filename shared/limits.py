"""What one tenant may use, all its keys together: requests, queued jobs, bytes of images, generated tokens."""

from dataclasses import dataclass, replace
from typing import Literal, Self

import pydantic

LimitName = Literal["requests", "queued", "bytes", "tokens"]

#: Seconds over which a limit counts; `queued` counts at one moment.
WINDOW_S: dict[LimitName, int] = {"requests": 60, "queued": 0, "bytes": 86_400, "tokens": 86_400}


@dataclass(frozen=True)
class TenantLimits:
    """Limits of one tenant; 0: none."""

    requests: int = 0  #: calls in a minute
    queued: int = 0  #: jobs that wait for a worker
    bytes: int = 0  #: bytes of images and files that are stored in a day
    tokens: int = 0  #: tokens generated in a day; counted as jobs end, so those that run may pass the limit

    def overridden(self, override: "LimitOverride | None") -> Self:
        """Return these limits with what `override` says otherwise."""
        return replace(self, **override.given()) if override else self

    @property
    def of_submissions(self) -> dict[str, int]:
        """The limits that a submission is held to; empty where there is none."""
        if not (self.queued or self.bytes or self.tokens):
            return {}
        return {"queued": self.queued, "bytes": self.bytes, "tokens": self.tokens}


NO_LIMITS = TenantLimits()


class LimitOverride(pydantic.BaseModel):
    """The limits of one tenant that `tileq keys limits` has set; None: as the settings say."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")

    requests: int | None = None
    queued: int | None = None
    bytes: int | None = None
    tokens: int | None = None

    def given(self) -> dict[str, int]:
        """Return the limits that are set."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True)
class LimitState:
    """How much of a limit is left; `reset_s`: seconds until there is room again, or until all of it is left."""

    name: LimitName
    limit: int
    remaining: int
    reset_s: float
