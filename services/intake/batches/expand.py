"""Lines become jobs, some at a time, in the order of the file, as there is room in the queue."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from services.intake.batches import metrics
from services.intake.batches.lines import Line
from services.intake.batches.requests import ENDPOINTS, LineRefused, of_body, read_envelope, read_submission
from services.intake.context import AppContext
from services.intake.openai.parse import SubmissionBuilder
from services.intake.openai.surface import envelope, error_status, params_named
from services.intake.principal import Principal
from services.intake.rendering import to_json
from services.intake.submission.model import Submission
from services.intake.submission.prepare import PreparedJob
from services.intake.submission.service import require_reading_of_parent
from shared.batches import Batch, BatchFile, line_job_id
from shared.errors import RequestError
from shared.keys import Scope
from shared.store import batches
from shared.store.transitions import LinesRead, SubmitResult

LINES_AT_ONCE = 100  #: that become jobs by one script
BYTES_AT_ONCE = 4 << 20  #: of lines that do, unless a single one is longer
TURN_S = 5.0  #: after which another batch gets its turn
ROOM_DELAY_S = 0.5  #: before the queue is asked for room again
MAX_LIMIT_DELAY_S = 60.0  #: before a limit of the tenant is asked again


@dataclass(frozen=True)
class Expansion:
    """Why no more lines were queued, and the seconds after which more may be."""

    stop: Literal["end", "turn", "room", "limit", "lost"]
    delay_s: float = 0


@dataclass(frozen=True)
class Expanded:
    """A line, and its job or the JSON that says why it becomes none."""

    line: Line
    job: PreparedJob | None = None
    refused: str = ""


@dataclass(frozen=True)
class _Turn:
    """One turn of a batch."""

    batch: Batch
    file: BatchFile
    caller: Principal
    window_ends: float  #: by this process's monotonic clock

    @property
    def left_s(self) -> float:
        """Seconds that are left of the completion window, at least one: a job of none would be refused."""
        return max(self.window_ends - time.monotonic(), 1)


class Expander:
    """Queues lines of batches. What it raises is a `RequestError` of 500 or above: the lines may be queued later."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._settings = context.settings
        self._builder = SubmissionBuilder(context.models)

    async def expand(self, batch: Batch, file: BatchFile, lines: AsyncIterator[Line], left_s: float) -> Expansion:
        """Queue lines until none is left, there is no room, or the turn is over; `left_s` is left of the window.

        Whoever calls this again begins behind the lines that are queued, where the batch then stands.
        """
        began = time.monotonic()
        turn = _Turn(batch, file, await self._caller(batch.tenant, file), began + left_s)
        while True:
            most = min(await self._room(turn.caller), LINES_AT_ONCE)
            if most <= 0:
                return Expansion("room", ROOM_DELAY_S)
            some = await self._some(turn, lines, most)
            if not some:
                return Expansion("end")
            if (stopped := await self._queue(turn, some)) is not None:
                return stopped
            if time.monotonic() - began > TURN_S:
                return Expansion("turn")

    async def _caller(self, tenant: str, file: BatchFile) -> Principal:
        limits = await self._context.authenticator.limits_of(tenant)
        return Principal(tenant, limits, scopes=frozenset(Scope) if file.reads else frozenset({Scope.SUBMIT}))

    async def _room(self, caller: Principal) -> int:
        """Return how many lines may be queued; none while there is room for a few only, so that they go together."""
        of_all, of_tenant = caller.limits.max_queued, caller.limits.tenant.queued
        mark = max(1, min(self._settings.batch_queued, of_all // 2, (of_tenant or of_all) // 2))
        queued, queued_by_all = await self._context.store.run(batches.queue_depth(caller.tenant))
        room = min(mark - queued, max(1, of_all // 2) - queued_by_all)
        return room if room >= min(LINES_AT_ONCE, max(1, mark // 4)) else 0

    async def _some(self, turn: _Turn, lines: AsyncIterator[Line], most: int) -> list[Expanded]:
        some: list[Expanded] = []
        size = 0
        while len(some) < most and size < BYTES_AT_ONCE and (line := await anext(lines, None)) is not None:
            some.append(await self._expanded(turn, line))
            size += len(line.data)
        return some

    async def _expanded(self, turn: _Turn, line: Line) -> Expanded:
        custom_id = ""
        try:
            envelope = read_envelope(line.data, turn.file.endpoint)
            custom_id = envelope.custom_id
            asked = await read_submission(envelope, turn.file, self._builder, self._settings)
            return Expanded(line, await self._prepared(turn, line, asked))
        except LineRefused as refused:
            return Expanded(line, refused=_refusal(custom_id, refused.error))

    async def _prepared(self, turn: _Turn, line: Line, asked: Submission) -> PreparedJob:
        batch, id = turn.batch, line_job_id(turn.batch.id, line.number)
        try:
            require_reading_of_parent(turn.caller, asked)
            with params_named(ENDPOINTS[turn.file.endpoint].names) as images:
                images += [upload.name for upload in asked.uploads]
                prepared = await self._context.preparation.prepare(
                    batch.tenant, asked, {}, trace="", batch=batch.id, id=id
                )
        except RequestError as error:
            raise of_body(error) from error
        left_s = turn.left_s
        job = replace(
            prepared.job,
            due=turn.file.deadline,
            start_within=min(asked.question.start_within or left_s, left_s),
            retain=self._settings.retain_for + left_s,  # until the output of the batch is written, and longer
        )
        return replace(prepared, job=job)

    async def _queue(self, turn: _Turn, some: Sequence[Expanded]) -> Expansion | None:
        """Queue `some`; return why no more may follow, or None. Of lines whose images pass a limit together, fewer."""
        asked = len(some)
        while True:
            submitted = await self._submit(turn, some)
            passed = submitted.limit
            if passed is None or passed.name != "bytes" or len(some) == 1:
                break
            some = some[: len(some) // 2]
        if submitted.outcome == "accepted":
            metrics.LINES.labels("queued").inc(sum(one.job is not None for one in some))
            metrics.LINES.labels("refused").inc(sum(one.job is None for one in some))
            return None if len(some) == asked else Expansion("turn")
        if submitted.outcome == "lease_lost":
            return Expansion("lost")
        delay_s = passed.reset_s if passed else submitted.retry_after
        return Expansion("limit", min(max(delay_s, 1), MAX_LIMIT_DELAY_S))

    async def _submit(self, turn: _Turn, some: Sequence[Expanded]) -> SubmitResult:
        last = some[-1].line
        refused = {one.line.number: one.refused for one in some if one.job is None}
        lines = LinesRead(turn.batch.id, turn.file.fence, last.end, last.number, refused)
        jobs = [one.job for one in some if one.job is not None]
        return await self._context.commit.commit_lines(turn.caller, jobs, lines)


def _refusal(custom_id: str, error: RequestError) -> str:
    """Return what the error file will say of a line."""
    shown = {"custom_id": custom_id, "status_code": error_status(error), "body": envelope(error)}
    return to_json(shown).decode()
