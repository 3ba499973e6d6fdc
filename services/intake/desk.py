"""The job store with one more promise: an answer, or `QueueUnavailable`, in bounded time."""

import asyncio
from typing import TypeVar

from shared.errors import QueueUnavailable
from shared.store import AsyncStore
from shared.transitions import Call

T = TypeVar("T")


class Desk:
    """Runs calls for routes."""

    def __init__(self, store: AsyncStore, patience: float) -> None:
        self.store = store
        self._patience = patience

    async def run(self, call: Call[T]) -> T:
        """Run one call; the client's own retries included it takes no longer than `patience`."""
        try:
            async with asyncio.timeout(self._patience):
                return await self.store.run(call)
        except TimeoutError as error:
            detail = f"the job store did not answer `{call.script}` within {self._patience:g} s; repeat later"
            raise QueueUnavailable(detail, retry_after=2) from error
