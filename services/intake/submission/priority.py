"""The highest priority that a caller may ask for, which keeps one tenant's jobs from going before all of another's."""

from dataclasses import replace

from services.intake.principal import Principal
from services.intake.submission.model import Submission
from shared.errors import InvalidField
from shared.jobs import PRIORITIES, Job, Priority


def capped(caller: Principal, submission: Submission) -> Submission:
    """Return `submission` at a priority that `caller` may use: one that is left out is lowered to the highest allowed.

    Raises `InvalidField` where a higher one was asked for.
    """
    asked, most = submission.question, caller.limits.max_priority
    if "priority" in asked.model_fields_set:
        refuse_above(most, asked.priority)
    if not _above(most, asked.priority):
        return submission
    return replace(submission, question=asked.model_copy(update={"priority": most}))


def refuse_above(most: Priority, asked: Priority, field: str = "priority") -> None:
    """Raise `InvalidField` where `asked`, the priority that `field` names, is higher than `most`."""
    if _above(most, asked):
        detail = f"`priority` is {asked}, and this key's jobs may have {most} at most; send that or leave it out"
        raise InvalidField(detail, field=field)


def _above(most: Priority, asked: Priority) -> bool:
    return PRIORITIES.index(asked) < PRIORITIES.index(most)


def capped_job(caller: Principal, job: Job) -> Job:
    """Return a job that is to be asked again by `caller`, at a priority that it may use."""
    return replace(job, priority=max(job.priority, PRIORITIES.index(caller.limits.max_priority)))
