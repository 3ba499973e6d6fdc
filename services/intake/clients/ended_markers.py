"""Writes the marker of a job that a request ended (`shared/ended.py`), so that losing Redis does not revive it."""

import asyncio

import structlog

from services.intake.clients.storage import Storage
from shared.ended import EndedMarker
from shared.errors import RequestError
from shared.storage import ended_key
from shared.store import transitions
from shared.store.client import AsyncStore

TIMEOUT_S = 1.0  #: that an answer waits for a marker
log = structlog.get_logger(__name__)


async def write_ended_marker(store: AsyncStore, storage: Storage, id: str) -> None:
    """Write the marker of `id` if it is missing; what fails or takes too long is left to the reconciler."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for job in await store.run(transitions.list_unmarked([id])):
                await storage.put(ended_key(id), EndedMarker.of(job).to_bytes(), "application/json")
                await store.run(transitions.marked([id]))
    except (RequestError, TimeoutError) as error:
        log.warning("ended marker not written, the reconciler will write it", job=id, error=str(error))
