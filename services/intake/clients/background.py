"""Work that continues after the answer."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from services.intake.metrics import DROPPED_TASKS

MAX_TASKS = 1000
log = structlog.get_logger(__name__)


class TaskSet:
    """Background tasks of this process, kept alive and cancelled at its end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` in the background; beyond `MAX_TASKS` at once it is dropped, counted and logged."""
        if len(self._tasks) >= MAX_TASKS:
            work.close()
            DROPPED_TASKS.inc()
            log.warning("background task dropped, too many are running", limit=MAX_TASKS)
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def cancel_all(self) -> None:
        """Cancel every task."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("background task failed", exc_info=error)
