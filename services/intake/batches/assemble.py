"""The answers of a batch become its output file, everything else its error file; both are written as they are read."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any

from services.intake.batches import metrics
from services.intake.clients.storage import Storage
from services.intake.context import AppContext
from services.intake.openai.surface import envelope
from services.intake.openai.views import chat_completion, failure_of
from services.intake.rendering import to_json
from shared.batches import Batch, BatchStatus, line_job_id
from shared.errors import QueueUnavailable
from shared.files import File, FileWriter
from shared.ids import derived_id
from shared.jobs import Job, State
from shared.object_writers import PART_BYTES
from shared.openai.responses import response_body
from shared.records import OpenAiOptions
from shared.store import batches, files
from shared.store.batches import LineOutcome
from shared.views import JobBody, job_body

LINES_AT_ONCE = 100  #: whose outcomes are read together
OUTPUT, ERRORS = 1, 2  #: the files of a batch, by which their ids are told apart

#: Why a line has no answer, by the status in which its batch ends.
_GIVEN_UP = {
    BatchStatus.EXPIRED: ("batch_expired", "the completion window of the batch ended before this request was answered"),
    BatchStatus.CANCELLED: ("batch_cancelled", "the batch was cancelled before this request was answered"),
}
_GONE = ("request_deleted", "the job of this request was deleted before the batch ended")


class BatchFileWriter:
    """A file of a batch. It exists once a line is written; its id is the same in every process that writes it."""

    def __init__(self, storage: Storage, batch: Batch, number: int, name: str) -> None:
        self.lines = 0
        self._storage = storage
        self._batch = batch
        self._id = derived_id("file", batch.id, number)
        self._name = f"{batch.id}_{name}.jsonl"
        self._writer: FileWriter | None = None

    async def write(self, lines: Sequence[bytes]) -> None:
        """Append `lines`."""
        if lines:
            if self._writer is None:
                self._writer = self._storage.file_writer(self._batch.tenant, self._id)
            self.lines += len(lines)
            data = b"".join(line + b"\n" for line in lines)
            await self._storage.run(partial(self._writer.write, data), PART_BYTES)

    async def close(self) -> File | None:
        """Store the file; return its record, None where no line was written."""
        if self._writer is None:
            return None
        asked = self._batch.file.output_expires if self._batch.file else 0
        # Counted from now on, as OpenAI has it; the writer counts from the time of the id, which is the batch's.
        expires_after = asked + time.time() - self._batch.created if asked else None
        close = partial(self._writer.close, "batch_output", self._name, expires_after=expires_after)
        return await self._storage.run(close, PART_BYTES)

    def abort(self) -> None:
        """Drop what was written."""
        if self._writer is not None:
            self._writer.abort()


class Assembler:
    """Writes the files of batches of which no job is active."""

    def __init__(self, context: AppContext) -> None:
        self._context = context

    async def assemble(
        self, batch: Batch, outcome: BatchStatus, lines: AsyncIterator[tuple[int, str]]
    ) -> dict[str, str | int]:
        """Write the files from (line, custom id or ""), and return the fields of the batch's record that tell of them.

        Raises a `RequestError` of 500 and above; repeated, it writes the same files again.
        """
        writers = [
            BatchFileWriter(self._context.storage, batch, OUTPUT, "output"),
            BatchFileWriter(self._context.storage, batch, ERRORS, "error"),
        ]
        try:
            async for some in _in_pages(lines):
                for writer, page in zip(writers, await self._page(batch, outcome, some), strict=True):
                    await writer.write(page)
            stored = [await writer.close() for writer in writers]
        except BaseException:
            for writer in writers:
                writer.abort()
            raise
        for file in stored:
            if file is not None:
                await self._context.store.run(files.put(file))
        for writer, label in zip(writers, ("answered", "unanswered"), strict=True):
            metrics.LINES.labels(label).inc(writer.lines)
        output, errors = (file.id if file else "" for file in stored)
        answered, unanswered = (writer.lines for writer in writers)
        return {"output_file": output, "error_file": errors, "answered": answered, "unanswered": unanswered}

    async def _page(
        self, batch: Batch, outcome: BatchStatus, some: Sequence[tuple[int, str]]
    ) -> tuple[list[bytes], list[bytes]]:
        """Return the lines of both files that tell of `some`."""
        ids = [(number, line_job_id(batch.id, number)) for number, _ in some]
        found = await self._context.store.run(batches.outcomes(batch.id, ids))
        succeeded = [one.job for one in found if one.job is not None and one.job.state is State.SUCCEEDED]
        bodies = {body.id: body for body in await self._context.queries.bodies(succeeded)}
        answers, errors = [], []
        for (_, known), (_, id), one in zip(some, ids, found, strict=True):
            custom_id = known or (one.job.custom_id if one.job else "") or _custom_id(one.refused)
            body = bodies.get(id)
            if body is not None and body.output is not None and one.job is not None:
                answers.append(_line(id, custom_id, response=_answer(one.job, body)))
            elif custom_id:  # else the file is gone, and the line is one that nothing is known of
                errors.append(_line(id, custom_id, **_failure(one, body, outcome)))
        return answers, errors


def _answer(job: Job, body: JobBody) -> dict[str, Any]:
    shown = chat_completion(body) if _api(job) == "chat.completions" else response_body(job, body)
    return {"status_code": 200, "request_id": job.id, "body": shown.model_dump()}


def _api(job: Job) -> str:
    return (job.openai or OpenAiOptions(api="responses")).api


def _failure(found: LineOutcome, body: JobBody | None, outcome: BatchStatus) -> dict[str, Any]:
    """Return `response` or `error` of a line without an answer. Raises `QueueUnavailable` for a job that is active."""
    job = found.job
    if job is None and found.refused:
        refused = json.loads(found.refused)
        return {"response": {"status_code": refused["status_code"], "request_id": None, "body": refused["body"]}}
    if job is None:
        return {"error": _error(*_GIVEN_UP.get(outcome, _GONE))}
    if not job.state.terminal:
        raise QueueUnavailable(f"{job.id} is active again; the batch is written later")
    if job.state in (State.CANCELLED, State.EXPIRED):
        code, message = _GIVEN_UP.get(outcome, (job.state.value, f"the job of this request was {job.state.value}"))
        return {"error": _error(code, message)}
    failed = failure_of(body or job_body(job))
    return {"response": {"status_code": failed.status, "request_id": job.id, "body": envelope(failed)}}


def _error(code: str, message: str) -> dict[str, str]:
    return {"code": code, "message": message}


def _line(
    job: str, custom_id: str, *, response: Mapping[str, Any] | None = None, error: Mapping[str, str] | None = None
) -> bytes:
    id = f"batch_req_{job.removeprefix('job_')}"
    return to_json({"id": id, "custom_id": custom_id, "response": response, "error": error})


def _custom_id(refused: str) -> str:
    return str(json.loads(refused)["custom_id"]) if refused else ""


async def _in_pages(lines: AsyncIterator[tuple[int, str]]) -> AsyncIterator[list[tuple[int, str]]]:
    page: list[tuple[int, str]] = []
    async for line in lines:
        page.append(line)
        if len(page) == LINES_AT_ONCE:
            yield page
            page = []
    if page:
        yield page
