"""The highest priority that a caller may ask for, which keeps one tenant's jobs from going before all of another's."""

from dataclasses import replace

from services.intake.principal import Principal
from services.intake.submission.model import Submission
from shared.errors import InvalidField
from shared.jobs import PRIORITIES, Job


def capped(caller: Principal, submission: Submission) -> Submission:
    """Return `submission` at a priority that `caller` may use: one that is left out is lowered to the highest allowed.

    Raises `InvalidField` where a higher one was asked for.
    """
    asked, most = submission.question, caller.limits.max_priority
    if PRIORITIES.index(asked.priority) >= PRIORITIES.index(most):
        return submission
    if "priority" in asked.model_fields_set:
        detail = (
            f"`priority` is {asked.priority}, and this key's jobs may have {most} at most; send that or leave it out"
        )
        raise InvalidField(detail, field="priority")
    return replace(submission, question=asked.model_copy(update={"priority": most}))


def capped_job(caller: Principal, job: Job) -> Job:
    """Return a job that is to be asked again by `caller`, at a priority that it may use."""
    return replace(job, priority=max(job.priority, PRIORITIES.index(caller.limits.max_priority)))
