"""Which job a claim takes, written down a second time: priority, tenants in turn, then age with affinity."""

from collections.abc import Set
from dataclasses import dataclass, field, replace

MAX_PASSES = 8


@dataclass(frozen=True)
class Waiting:
    """A queued job."""

    id: str
    tenant: str
    priority: int
    key: str
    passes: int = 0
    late: bool = False  #: the first pass is too long ago

    @property
    def fixed(self) -> bool:
        """Whether no younger job may go first any more."""
        return self.late or self.passes >= MAX_PASSES


@dataclass
class Queue:
    """All queued jobs by age, and the tenants of each priority in the order of their turns."""

    jobs: list[Waiting] = field(default_factory=list)
    turns: dict[int, list[str]] = field(default_factory=lambda: {0: [], 1: [], 2: []})

    def submit(self, job: Waiting) -> None:
        """Queue a job behind all others."""
        self.jobs.append(job)
        if job.tenant not in self.turns[job.priority]:
            self.turns[job.priority].append(job.tenant)

    def claim(self, cached: Set[str], window: int) -> Waiting | None:
        """Take the next job for a worker that has the prompts `cached`."""
        priority = next((priority for priority in self.turns if self.turns[priority]), None)
        if priority is None:
            return None
        tenant = self.turns[priority].pop(0)
        line = [job for job in self.jobs if (job.priority, job.tenant) == (priority, tenant)]
        place = self._preferred(line[:window], cached)
        for job in line[:place]:
            self.jobs[self.jobs.index(job)] = replace(job, passes=job.passes + 1)
        self.jobs.remove(line[place])
        if len(line) > 1:
            self.turns[priority].append(tenant)
        return line[place]

    @staticmethod
    def _preferred(line: list[Waiting], cached: Set[str]) -> int:
        for place, job in enumerate(line):
            if job.key in cached:
                return place
            if job.fixed:
                break
        return 0
