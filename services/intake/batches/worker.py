"""Work on batches of files: claim one, do the next step of it, put it back; until it is terminal.

A claim is a lease that is renewed while the step lasts. A process that dies leaves the batch to the next claim, which
begins where the store says that the batch stands. A process that was frozen changes nothing any more: the number of its
claim (`fence`) is not the latest.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress

import structlog

from services.intake.batches import metrics
from services.intake.batches.assemble import Assembler
from services.intake.batches.expand import Expander
from services.intake.batches.lines import Line, LineTooLong, read_lines
from services.intake.batches.validate import Validator
from services.intake.context import AppContext
from shared.batches import Batch, BatchFile, BatchStatus
from shared.errors import ObjectMissing, RequestError
from shared.files import content_key
from shared.storage import batch_key
from shared.store import batches, keys, transitions

POLL_S = 0.5  #: between two claims while no batch is due
IDLE_S = 60.0  #: before a batch is looked at again whose jobs have not all ended; its last one wakes it
CANCEL_DELAY_S = 1.0  #: before a batch is looked at again whose jobs are being cancelled
FAILURE_DELAY_S = 2.0  #: before a step is tried again for which a server did not answer
BUG_DELAY_S = 30.0  #: before one is tried again that failed otherwise
JOBS_AT_ONCE = 100  #: that are cancelled together
_GONE = {
    "code": "input_file_missing",
    "line": None,
    "message": "the file of the batch is gone or damaged",
    "param": None,
}
_STORED = ("outcome", "line", "in_progress_at", "finalizing_at", "cancelling_at")  #: what a stored record tells besides
_LOGGED = ("total", "outcome", "answered", "unanswered")
log = structlog.get_logger(__name__)


class BatchWorker:
    """Works on batches until it is stopped; several may run, in one process and in many."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._store = context.store
        self._settings = context.settings
        self._validator = Validator(context.models, context.settings)
        self._expander = Expander(context)
        self._assembler = Assembler(context)

    async def run(self, stop: asyncio.Event) -> None:
        """Work on one batch after the other until `stop` is set; then the one in hand is put back."""
        while not stop.is_set():
            if not await self._work_on_next(stop):
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), POLL_S)

    async def _work_on_next(self, stop: asyncio.Event) -> bool:
        """Claim a batch and do a step of it; False where none is due."""
        try:
            batch, now = await self._store.run(batches.claim(self._settings.lease))
        except RequestError as error:
            log.warning("no batch claimed: the job store failed", error=error.detail)
            return False
        if batch is None or batch.file is None:
            return False
        with structlog.contextvars.bound_contextvars(batch=batch.id, tenant=batch.tenant):
            step = asyncio.create_task(self._step(batch, batch.file, batch.file.deadline - now))
            watch = asyncio.create_task(self._renew(batch, batch.file, stop, step))
            with suppress(asyncio.CancelledError):
                await step
            watch.cancel()
            delay_s = 0 if step.cancelled() else step.result()
            await self._release(batch, batch.file, delay_s)
        return True

    async def _renew(self, batch: Batch, file: BatchFile, stop: asyncio.Event, step: "asyncio.Task[float]") -> None:
        """Renew the claim until cancelled; cancel `step` at a shutdown, or where the claim or the status was lost."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._settings.lease / 3)
            if stop.is_set():
                step.cancel()
                return
            with suppress(RequestError):  # a beat that the store misses is repeated by the next one
                if not await self._store.run(batches.renew(batch.id, file.fence, file.status, self._settings.lease)):
                    log.info("the batch is another process's, or was cancelled; the step is given up")
                    metrics.LOST_CLAIMS.inc()
                    step.cancel()
                    return

    async def _release(self, batch: Batch, file: BatchFile, delay_s: float) -> None:
        """Put the batch back; where the store does not answer, it is due when the claim's lease ends."""
        with suppress(RequestError):
            await self._store.run(batches.release(batch.id, file.fence, delay_s))

    async def _step(self, batch: Batch, file: BatchFile, left_s: float) -> float:
        """Do the next step; return the seconds after which the batch is due again. Nothing is raised."""
        try:
            return await self._steps(batch, file, left_s)
        except RequestError as error:
            metrics.WAITS.labels("server").inc()
            log.warning("step of a batch is tried again", status=file.status.value, error=error.detail)
            return FAILURE_DELAY_S
        except Exception:
            metrics.WAITS.labels("bug").inc()
            log.exception("step of a batch is tried again", status=file.status.value)
            return BUG_DELAY_S

    async def _steps(self, batch: Batch, file: BatchFile, left_s: float) -> float:
        open = file.status in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)
        try:
            if open and left_s <= 0:
                return await self._finalize(batch, file, BatchStatus.EXPIRED)
            if file.status is BatchStatus.VALIDATING:
                return await self._validate(batch, file)
            if file.status is BatchStatus.IN_PROGRESS:
                return await self._expand(batch, file, left_s)
        except (ObjectMissing, LineTooLong) as error:  # validated, its lines had an allowed length
            log.warning("the file of a batch is gone or damaged", file=file.input_file, error=str(error))
            return await self._finalize(batch, file, BatchStatus.FAILED)
        return await self._end(batch, file)

    async def _validate(self, batch: Batch, file: BatchFile) -> float:
        verdict = await self._validator.validate(file, self._lines(file))
        if verdict.errors:
            errors = json.dumps(verdict.errors, ensure_ascii=False)
            log.info("batch refused", lines=verdict.lines, invalid=verdict.invalid)
            await self._move(batch, file, BatchStatus.FAILED, {"errors": errors, "total": verdict.lines})
        else:
            log.info("batch validated", lines=verdict.lines)
            await self._move(batch, file, BatchStatus.IN_PROGRESS, {"total": verdict.lines})
        return 0

    async def _expand(self, batch: Batch, file: BatchFile, left_s: float) -> float:
        lines = self._lines(file, file.offset, file.line)
        expansion = await self._expander.expand(batch, file, lines, left_s)
        if expansion.stop in ("room", "limit"):
            metrics.WAITS.labels(expansion.stop).inc()
        if expansion.stop != "end":
            return min(expansion.delay_s, left_s)
        if await self._active_jobs(batch):
            return min(IDLE_S, left_s)
        return await self._finalize(batch, file, BatchStatus.COMPLETED)

    async def _active_jobs(self, batch: Batch) -> int:
        found = await self._store.run(batches.get("", batch.id, 0, 0))
        return found[0].active if found else 0

    async def _finalize(self, batch: Batch, file: BatchFile, outcome: BatchStatus) -> float:
        """Queue no more lines; the batch will end in `outcome`."""
        fields = {"outcome": outcome.value}
        if outcome is BatchStatus.FAILED:
            fields["errors"] = json.dumps([_GONE])
        await self._move(batch, file, BatchStatus.FINALIZING, fields)
        return 0

    async def _end(self, batch: Batch, file: BatchFile) -> float:
        """Cancel what is active; once nothing is, write the files, and end the batch."""
        if file.status is BatchStatus.CANCELLING:
            await self._store_record(batch, file, {"status": file.status.value})
        if batch.active:
            await self._cancel_jobs(batch)
            return CANCEL_DELAY_S
        outcome = BatchStatus(file.outcome)
        fields: Mapping[str, str | int] = {}
        if batch.total:  # else it was not validated, and no line is known to be one
            fields = await self._assembler.assemble(batch, outcome, self._custom_ids(file))
        await self._move(batch, file, outcome, fields)
        return 0

    async def _cancel_jobs(self, batch: Batch) -> None:
        start = 0
        while True:
            found = await self._store.run(batches.get("", batch.id, start, start + JOBS_AT_ONCE - 1))
            if not found or not found[1]:
                return
            calls = (self._store.run(transitions.cancel(batch.tenant, job)) for job in found[1])
            moved = await asyncio.gather(*calls)
            self._context.publisher.deliveries(*(message for one in moved for message in one.messages))
            start += JOBS_AT_ONCE

    async def _move(self, batch: Batch, file: BatchFile, to: BatchStatus, fields: Mapping[str, str | int]) -> None:
        """Give the batch the status `to`. The one place where a batch of a file becomes terminal."""
        if to.terminal:
            await self._store_end(batch, file, to, fields)
        call = batches.move(batch.id, file.fence, file.status, to, fields=fields, retain=self._settings.retain_for)
        moved = await self._store.run(call)
        if not moved.value:
            log.info("status not changed: the batch is another process's, or was cancelled", to=to.value)
            return
        self._context.publisher.deliveries(*moved.messages)
        log.info("status of a batch", status=to.value, **{name: fields[name] for name in _LOGGED if name in fields})
        if to.terminal:
            metrics.ENDED.labels(to.value).inc()

    async def _store_end(self, batch: Batch, file: BatchFile, to: BatchStatus, fields: Mapping[str, str | int]) -> None:
        """Store how the batch ends."""
        now = await self._store.run(keys.server_time())
        ended = {"status": to.value, "ended": f"{now:.6f}", "expires": f"{now + self._settings.retain_for:.6f}"}
        await self._store_record(batch, file, {**ended, f"{to.value}_at": f"{now:.6f}", **fields})

    async def _store_record(self, batch: Batch, file: BatchFile, fields: Mapping[str, str | int]) -> None:
        """Add to the stored record of the batch, which the reconciler restores if Redis is lost with its disk."""
        key = batch_key(batch.id)
        try:
            record = json.loads(await self._context.storage.get(key))
        except (ObjectMissing, ValueError):
            log.error("the stored record of a batch can't be read; if Redis is lost, so is the batch", key=key)
            return
        known = {name: getattr(file, name) for name in _STORED if getattr(file, name)}
        changed = {"total": batch.total, **known, **fields}
        record |= {name: str(value) for name, value in changed.items()}
        await self._context.storage.put(key, json.dumps(record).encode(), "application/json")

    def _lines(self, file: BatchFile, offset: int = 0, number: int = 0) -> AsyncIterator[Line]:
        async def read_at(start: int, length: int) -> bytes:
            return await self._context.storage.get_range(content_key(file.input_file), start, length)

        longest = self._settings.max_batch_line_bytes
        return read_lines(read_at, file.bytes, offset=offset, number=number, max_line_bytes=longest)

    async def _custom_ids(self, file: BatchFile) -> AsyncIterator[tuple[int, str]]:
        """Yield number and custom id of each line; where the file is gone or damaged, "" for those that were read."""
        number = 0
        with suppress(ObjectMissing, LineTooLong):
            async for line in self._lines(file):
                number = line.number
                yield number, _custom_id(line.data)
        for missing in range(number + 1, file.line + 1):
            yield missing, ""


def _custom_id(line: bytes) -> str:
    try:
        return str(json.loads(line)["custom_id"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
