"""Settings of what one tenant may use."""

from pydantic import Field

from shared.jobs import Priority
from shared.limits import TenantLimits
from shared.settings.base import ProcessSettings


class LimitSettings(ProcessSettings):
    """What one tenant may use; `tileq keys limits` sets other values for one of them."""

    limit_requests: int = Field(0, ge=0, description="requests of one tenant in a minute; 0: no limit")
    limit_queued: int = Field(0, ge=0, description="queued jobs of one tenant; 0: no limit")
    limit_bytes: int = Field(
        0, ge=0, description="bytes of images and files that one tenant stores in a day (UTC); 0: no limit"
    )
    limit_tokens: int = Field(0, ge=0, description="tokens generated for one tenant in a day (UTC); 0: no limit")
    max_priority: Priority = Field(
        "high",
        description="highest `priority` of a key that has none of its own; `normal`: no tenant goes before others",
    )

    @property
    def tenant_limits(self) -> TenantLimits:
        """The limits of a tenant that has none of its own."""
        return TenantLimits(self.limit_requests, self.limit_queued, self.limit_bytes, self.limit_tokens)
