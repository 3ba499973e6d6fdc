"""The job store with one more promise: an answer, or `QueueUnavailable`, in bounded time.

What exactly failed is for the log: it names servers that are no client's business.
"""

import asyncio
from typing import TypeVar

import structlog
from redis.exceptions import ResponseError

from shared.errors import QueueUnavailable
from shared.store.client import AsyncStore
from shared.store.command import StoreCommand

T = TypeVar("T")

RETRY_AFTER = 2.0
log = structlog.get_logger(__name__)


class Desk:
    """Runs calls for routes."""

    def __init__(self, store: AsyncStore, patience: float) -> None:
        self.store = store
        self._patience = patience

    async def run(self, call: StoreCommand[T]) -> T:
        """Run one call; the client's own retries included it takes no longer than `patience`."""
        try:
            async with asyncio.timeout(self._patience):
                return await self.store.run(call)
        except (TimeoutError, QueueUnavailable) as error:
            log.warning("the job store does not answer", call=call.script, error=str(error) or "no answer in time")
            raise QueueUnavailable(retry_after=RETRY_AFTER) from error


def said_no(error: BaseException | None) -> bool:
    """Tell whether the store answered, and refused: its memory is full, say."""
    while error is not None and not isinstance(error, ResponseError):
        error = error.__cause__
    return error is not None
