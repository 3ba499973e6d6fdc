"""`FileBatches`: accepts batches of files. `services.intake.batches` reads their lines later."""

import hashlib
import json
from collections.abc import Mapping
from typing import get_args

from services.intake.clients.storage import Storage
from services.intake.principal import Principal
from services.intake.queries import JobQueries
from services.intake.schemas.openai import BatchEvent, FileBatchRequest
from services.intake.submission.idempotency import KeyReservation, reserve_key
from services.intake.submission.model import RequestHeaders
from services.intake.submission.prepare import Preparation
from services.intake.submission.priority import refuse_above
from shared.batches import Batch, BatchStatus
from shared.errors import IdempotencyInProgress, InvalidField
from shared.ids import is_id, new_id
from shared.keys import Scope
from shared.settings.roles import IntakeSettings
from shared.storage import batch_key
from shared.store import batches, files, keys
from shared.store.client import AsyncStore

_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class FileBatches:
    """Accepts batches of files. Every method raises `RequestError`; what it returns is durable."""

    def __init__(
        self,
        *,
        store: AsyncStore,
        storage: Storage,
        queries: JobQueries,
        preparation: Preparation,
        settings: IntakeSettings,
    ) -> None:
        self._store = store
        self._storage = storage
        self._queries = queries
        self._preparation = preparation
        self._settings = settings

    async def submit(self, principal: Principal, asked: FileBatchRequest, headers: RequestHeaders) -> Batch:
        """Accept a batch, or return the one that an earlier request with the same Idempotency-Key became."""
        fingerprint = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
        async with reserve_key(self._store, principal.tenant, headers.idempotency_key, fingerprint) as reservation:
            id = reservation.replay or new_id("batch")
            if not reservation.replay:
                await self._put(principal, id, asked, reservation)
        return await self._queries.get_batch(principal.tenant, id)

    async def _put(self, principal: Principal, id: str, asked: FileBatchRequest, reservation: KeyReservation) -> None:
        record = await self._record(principal, id, asked)
        if reservation.key:
            record["idem"] = reservation.key
        # Losing Redis loses no batch: the reconciler restores it from this object.
        await self._storage.put(batch_key(id), json.dumps(record, ensure_ascii=False).encode(), "application/json")
        if not await self._store.run(batches.put(record, reservation.binding(id))):
            await self._storage.discard([batch_key(id)])
            raise IdempotencyInProgress(retry_after=1)

    async def _record(self, principal: Principal, id: str, asked: FileBatchRequest) -> dict[str, str]:
        window_s = self._window_s(asked.completion_window)
        size = await self._file_bytes(principal.tenant, asked.input_file_id)
        refuse_above(principal.limits.max_priority, asked.tileq.priority, "tileq.priority")
        webhook = await self._preparation.webhook(
            principal.tenant, asked.tileq.webhook, get_args(BatchEvent), "tileq.webhook"
        )
        now = await self._store.run(keys.server_time())
        record = {
            "id": id,
            "tenant": principal.tenant,
            "total": "0",
            "created": f"{now:.6f}",
            "status": BatchStatus.VALIDATING.value,
            "input_file": asked.input_file_id,
            "bytes": str(size),
            "endpoint": asked.endpoint,
            "window": asked.completion_window,
            "deadline": f"{now + window_s:.6f}",
            "priority": asked.tileq.priority,
            "max_priority": principal.limits.max_priority,
            "reads": "1" if Scope.READ in principal.scopes else "",
        }
        optional: Mapping[str, str] = {
            "metadata": json.dumps(asked.metadata, ensure_ascii=False) if asked.metadata else "",
            "webhook": webhook.model_dump_json() if webhook else "",
            "output_expires": str(asked.output_expires_after.seconds) if asked.output_expires_after else "",
        }
        return record | {name: text for name, text in optional.items() if text}

    def _window_s(self, window: str) -> float:
        seconds = int(window[:-1]) * _UNIT_S[window[-1]]
        if seconds > self._settings.max_batch_window:
            detail = f"`completion_window` is {window}; at most {self._settings.max_batch_window:.15g} s are allowed"
            raise InvalidField(detail, field="completion_window")
        return seconds

    async def _file_bytes(self, tenant: str, id: str) -> int:
        """Return the size of the file. Raises `InvalidField` where it can't be a batch's."""
        file = await self._store.run(files.get(tenant, id)) if is_id("file", id) else None
        if file is None:
            raise InvalidField("there is no such file; POST /v1/files stores one", field="input_file_id")
        if file.purpose != "batch":
            detail = f"the purpose of {id} is `{file.purpose}`; upload it with the purpose `batch`"
            raise InvalidField(detail, field="input_file_id")
        limit = self._settings.max_batch_bytes
        if file.bytes > limit:
            raise InvalidField(f"{id} has {file.bytes} bytes; at most {limit} are allowed", field="input_file_id")
        return file.bytes
