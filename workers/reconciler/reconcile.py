"""Reconciliation: one step for every guarantee that a passing deadline or a lost message could break.

Any number of reconcilers may run; each step is one atomic script, so two of them only share the work.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog
from prometheus_client import Counter

from shared.broker import WEBHOOK_QUEUE, Hints, vision_queue
from shared.ended import JOBS_PER_GROUP, archive_ends
from shared.errors import QueueUnavailable, StorageDown
from shared.files import delete_file_objects
from shared.ids import new_id
from shared.jobs import State
from shared.settings.jobs import JobSettings
from shared.storage import ObjectStorage, batch_key, delete_job_objects, endpoint_key
from shared.store import deliveries, transitions
from shared.store.client import Store
from shared.store.stats import get_stats

MAX_REPEATED_HINTS = 100  #: that wait for workers of a model at a time: a worker follows one until nothing waits
FIND_PER_CALL = 500
IDS_PER_PAGE = 100  #: that one call expires, purges or lists
MAX_EXPIRY_PAGES = 10  #: of one pass: a thousand jobs are a tenth of a second of the store
DELETE_THREADS = 4  #: as many as S3Storage keeps connections; one deletes 60 jobs' objects a second, four 170
T = TypeVar("T")
log = structlog.get_logger(__name__)

TRANSITIONS = Counter("tileq_reconciler_transitions_total", "Transitions by the reconciler", ["step", "state"])
REPUBLISHED = Counter("tileq_reconciler_hints_republished_total", "Hints published again", ["queue"])
STEP_FAILURES = Counter("tileq_reconciler_step_failures_total", "Failed steps, repeated at the next period", ["step"])


class Reconciler:
    """Runs the steps; `reconcile()` runs each of them once. Threads may share it."""

    def __init__(self, store: Store, objects: ObjectStorage, hints: Hints, settings: JobSettings) -> None:
        self.store = store
        self.objects = objects
        self.hints = hints
        self.settings = settings
        self.id = new_id("reconciler")
        self._index_is_complete = False
        self._ended: deque[str] = deque()  #: jobs that this reconciler ended, until their ends are stored
        self.has_ended = threading.Event()  #: set when a job is added, so that its end is stored at once

    def reconcile(self) -> None:
        """Run every step; one that fails is logged, counted and left to the next period."""
        self.reconcile_store()
        self.reconcile_objects()

    def reconcile_store(self) -> None:
        """Run the steps that need no object storage."""
        for step in (self.reap, self.expire, self.republish_jobs, self.republish_deliveries):
            self._attempt(step)

    def reconcile_objects(self) -> bool:
        """Run the steps that wait for object storage; return whether one of them left more than it took.

        They run in a thread of their own, so that leases never wait for object storage.
        """
        self._index_is_complete = self._index_is_complete or self._attempt(self.find_unarchived) is not None
        steps = (self.archive_own, self.archive_ends, self.purge, self.empty_trash)
        left = [self._attempt(step) for step in steps]  # each of them
        return any(left)

    def reap(self) -> None:
        """Queue the jobs of lost workers again, or fail them after their last attempt."""
        moved = self.store.run(transitions.reap(self.settings.retry_backoff))
        for id, state, owner in moved.value:
            TRANSITIONS.labels("reap", state).inc()
            log.warning("lease expired", job=id, worker=owner, state=state)
        self._note_ended(id for id, state, _ in moved.value if state != State.QUEUED)
        self.hints.deliveries(*moved.messages)

    def expire(self) -> None:
        """End the jobs that passed `start_within` or `run_within`."""
        for _ in range(MAX_EXPIRY_PAGES):
            moved = self.store.run(transitions.expire_due(IDS_PER_PAGE))
            for id, state in moved.value:
                TRANSITIONS.labels("expire", state).inc()
                log.info("deadline passed", job=id, state=state)
            self._note_ended(id for id, _ in moved.value)
            self.hints.deliveries(*moved.messages)
            if len(moved.value) < IDS_PER_PAGE:
                return

    def republish_jobs(self) -> None:
        """Publish again the hints that no worker followed: hints are all alike, so never more than jobs are ready."""
        due = defaultdict(list)
        for id, model in self.store.run(transitions.dispatch(self.settings.redispatch)):
            due[model].append(id)
        if not due:
            return
        models = self.store.run(get_stats()).models
        for model, ids in due.items():
            name = vision_queue(model)
            ready = models[model].queued if model in models else len(ids)
            for id in ids[: max(0, min(ready, MAX_REPEATED_HINTS) - self.hints.depth(name))]:
                self._repeat(name, self.hints.job(model, id))

    def republish_deliveries(self) -> None:
        """Publish hints for due webhooks, at most as many as are due."""
        due = self.store.run(deliveries.list_due())
        if due:
            for msg in due[: max(0, len(due) - self.hints.depth(WEBHOOK_QUEUE))]:
                self._repeat(WEBHOOK_QUEUE, self.hints.deliveries(msg))

    def archive_own(self) -> bool:
        """Store the ends that this reconciler made; where that fails they stay in the index, for `archive_ends`."""
        self.has_ended.clear()
        own = [self._ended.popleft() for _ in range(min(len(self._ended), JOBS_PER_GROUP))]
        if own:
            archive_ends(self.store, self.objects, own)
        return bool(self._ended)

    def archive_ends(self) -> bool:
        """Store how jobs ended in group objects, unless another reconciler does."""
        while archive_ends(self.store, self.objects, archiver=self.id) == JOBS_PER_GROUP:
            pass
        return False

    def _note_ended(self, ids: Iterable[str]) -> None:
        self._ended.extend(ids)
        if self._ended:
            self.has_ended.set()

    def find_unarchived(self) -> bool:
        """Add the ended jobs of former releases, which stored no ends, to the index; once after each start."""
        offset = 0
        while read := self.store.run(transitions.find_unarchived(offset, FIND_PER_CALL)):
            offset += read
        return False

    def purge(self) -> bool:
        """Delete the records past their retention; `empty_trash` deletes the objects of jobs and files."""
        ids = self.store.run(transitions.purge(IDS_PER_PAGE))
        for id in ids:
            log.info("record deleted after its retention", id=id)
            if id.startswith("batch_"):
                self.objects.delete(batch_key(id))
        return len(ids) == IDS_PER_PAGE

    def empty_trash(self) -> bool:
        """Delete the objects of deleted jobs, files and webhook endpoints, several at once."""
        ids = self.store.run(transitions.list_trash(IDS_PER_PAGE))
        if ids:
            with ThreadPoolExecutor(DELETE_THREADS, "trash") as pool:
                list(pool.map(self._delete_objects, ids))
        return len(ids) == IDS_PER_PAGE

    def _delete_objects(self, id: str) -> None:
        """Delete the objects of `id`, and only then the id."""
        if id.startswith("we_"):
            self.objects.delete(endpoint_key(id))
        elif id.startswith("file_"):
            delete_file_objects(self.objects, id)
        else:
            delete_job_objects(self.objects, id)
        self.store.run(transitions.purge_done([id]))

    def _attempt(self, step: Callable[[], T]) -> T | None:
        """Return what `step` returns, or None after a failure."""
        try:
            return step()
        except (QueueUnavailable, StorageDown) as error:
            STEP_FAILURES.labels(step.__name__).inc()
            log.warning("step left to the next period", step=step.__name__, error=error.detail)
        except Exception:  # a broker fails in many ways, and the other steps must go on
            STEP_FAILURES.labels(step.__name__).inc()
            log.exception("step left to the next period", step=step.__name__)
        return None

    @staticmethod
    def _repeat(name: str, published: bool) -> None:
        if published:
            REPUBLISHED.labels(name).inc()
