"""Validation of a batch's file: every line is read once; its custom ids are told apart by digests of 16 bytes."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from services.intake.batches import metrics
from services.intake.batches.lines import Line, LineTooLong
from services.intake.batches.requests import (
    Envelope,
    LineRefused,
    line_refused,
    of_body,
    read_envelope,
    read_submission,
)
from services.intake.clients.model_registry import ModelRegistry
from services.intake.openai.parse import SubmissionBuilder
from shared.batches import BatchFile
from shared.errors import UnknownModel
from shared.settings.roles import IntakeSettings

MAX_LISTED_ERRORS = 100  #: of a file; the others are only counted
MAX_MESSAGE_CHARACTERS = 500
LINES_PER_TURN = 20  #: read between two turns of the event loop, which renews the claim


@dataclass
class Verdict:
    """What validation found."""

    lines: int = 0
    invalid: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)  #: as OpenAI's `errors.data`

    def refuse(self, code: str, message: str, *, line: int | None, param: str | None) -> None:
        """Note an error."""
        self.invalid += 1
        if len(self.errors) < MAX_LISTED_ERRORS:
            shown = {"code": code, "line": line, "message": message[:MAX_MESSAGE_CHARACTERS], "param": param}
            self.errors.append(shown)


class Validator:
    """Judges files line by line."""

    def __init__(self, models: ModelRegistry, settings: IntakeSettings) -> None:
        self._models = models
        self._builder = SubmissionBuilder(models)
        self._settings = settings

    async def validate(self, file: BatchFile, lines: AsyncIterator[Line]) -> Verdict:
        """Return what is wrong with the lines, nothing where the file can be worked on."""
        verdict, limit, seen = Verdict(), self._settings.max_batch_lines, set[bytes]()
        try:
            async for line in lines:
                if verdict.lines == limit:
                    detail = f"the file has more than {limit} lines; send it in several batches"
                    verdict.refuse("too_many_requests", detail, line=None, param=None)
                    break
                verdict.lines += 1
                await self._judge(file, line, seen, verdict)
                if verdict.lines % LINES_PER_TURN == 0:
                    await asyncio.sleep(0)
        except LineTooLong as error:
            verdict.refuse("line_too_long", str(error), line=error.number, param=None)
        if verdict.lines == 0 and not verdict.errors:
            verdict.refuse("empty_file", "the file has no lines", line=None, param=None)
        metrics.LINES.labels("valid").inc(verdict.lines - min(verdict.invalid, verdict.lines))
        metrics.LINES.labels("invalid").inc(verdict.invalid)
        return verdict

    async def _judge(self, file: BatchFile, line: Line, seen: set[bytes], verdict: Verdict) -> None:
        try:
            envelope = read_envelope(line.data, file.endpoint)
            _refuse_duplicate(envelope, seen)
            asked = await read_submission(envelope, file, self._builder, self._settings)
            await self._refuse_unknown_model(asked.question.model)
        except LineRefused as refused:
            verdict.refuse(refused.code, str(refused), line=line.number, param=refused.param)

    async def _refuse_unknown_model(self, model: str | None) -> None:
        try:
            await self._models.get(model)
        except UnknownModel as error:
            raise of_body(error) from error


def _refuse_duplicate(envelope: Envelope, seen: set[bytes]) -> None:
    digest = hashlib.blake2b(envelope.custom_id.encode(), digest_size=16).digest()
    if digest in seen:
        detail = f"the custom_id {envelope.custom_id[:80]!r} stands on an earlier line too"
        raise line_refused("duplicate_custom_id", "custom_id", detail)
    seen.add(digest)
