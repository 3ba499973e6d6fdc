"""Work that goes on after the answer: kept alive by name, cancelled at the end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

MOST = 1000
log = structlog.get_logger(__name__)


class Chores:
    """Tasks that nobody waits for."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` in the background; beyond `MOST` at once it is left undone."""
        if len(self._tasks) >= MOST:
            work.close()
            return
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def end(self) -> None:
        """Cancel what is left."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=2)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("a chore failed", exc_info=error)
