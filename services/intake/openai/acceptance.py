"""A request of OpenAI's surface is read and accepted as a job; its files are not held while a call waits."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import Request

from services.intake.context import AppContext
from services.intake.metrics import ACCEPT
from services.intake.openai.parse import Asked, R
from services.intake.openai.surface import params_named
from services.intake.principal import Principal
from services.intake.submission.body import read_json_as
from services.intake.submission.headers import read_headers
from services.intake.submission.model import Submission
from shared.jobs import Job
from shared.settings.roles import IntakeSettings


async def accept(
    request: Request,
    context: AppContext,
    caller: Principal,
    read: Callable[[dict[str, Any], IntakeSettings], Asked[R]],
    build: Callable[[Asked[R]], Awaitable[Submission]],
    *,
    names: Mapping[str, str],
) -> tuple[R, Job]:
    """Return the request and its job. Raises `RequestError` that names OpenAI's parameters, as `names` maps them."""
    headers = read_headers(request)
    settings = context.settings
    parsed = await read_json_as(request, settings, lambda body: read(body, settings))
    with params_named(names) as images:
        submission = await build(parsed)
        images += [upload.name for upload in submission.uploads]
        accepted = await context.submissions.submit(caller, submission, headers)
    if not accepted.replayed:
        ACCEPT.observe(time.monotonic() - request.state.began)
    return parsed.request, accepted.job
