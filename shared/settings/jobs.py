"""Settings of jobs."""

from pydantic import Field

from shared.settings.base import ProcessSettings


class JobSettings(ProcessSettings):
    """Leases, attempts and deadlines of jobs."""

    lease: float = Field(
        30, gt=0, description="a running job whose worker sends no heartbeat for this long is queued again"
    )
    max_attempts: int = Field(
        3, ge=1, description="attempts of one job that may be lost or fail with a transient error"
    )
    retry_backoff: float = Field(2, ge=0, description="before the second attempt; doubles, with jitter")
    redispatch: float = Field(
        10, gt=0, description="a hint is repeated after this while no worker claims the job, doubling to 60"
    )
    start_within: float = Field(3600, gt=0, description="default of a request's `start_within`")
    run_within: float = Field(600, gt=0, description="default of a request's `run_within`")
    max_start_within: float = Field(86_400 * 7, gt=0, description="largest `start_within` of a request")
    max_run_within: float = Field(3600, gt=0, description="largest `run_within` of a request")
    retain_for: float = Field(86_400 * 7, gt=0, description="an ended job and its objects live this long")
    reconcile_period: float = Field(1, gt=0, description="between two passes of the reconciler")
