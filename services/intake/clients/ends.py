"""Stores the end of a job that a request ended (`shared/ended.py`), so that losing Redis does not revive it."""

import asyncio

import structlog

from services.intake.clients.storage import Storage
from shared.ended import MEDIA_TYPE, group, group_key
from shared.errors import RequestError
from shared.store import transitions
from shared.store.client import AsyncStore

TIMEOUT_S = 1.0  #: that an answer waits for it
log = structlog.get_logger(__name__)


async def archive_end(store: AsyncStore, storage: Storage, id: str) -> None:
    """Store the end of `id` unless it is stored; what fails or takes too long is left to the reconciler."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            if ends := await store.run(transitions.list_unarchived([id])):
                await storage.put(group_key(ends), group(ends), MEDIA_TYPE)
                await store.run(transitions.archived([id]))
    except (RequestError, TimeoutError) as error:
        log.warning("end of a job not stored, the reconciler will store it", job=id, error=str(error))
