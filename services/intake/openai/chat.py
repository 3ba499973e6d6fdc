"""`/v1/chat/completions`: one call, one answer."""

from fastapi import Request
from fastapi.responses import Response

from services.intake.context import AppContext, Context, Submitter
from services.intake.lifecycle import forget_job
from services.intake.openai.acceptance import accept
from services.intake.openai.chat_stream import encoded
from services.intake.openai.document import answers, asks, openai_errors
from services.intake.openai.parse import CHAT_NAMES, SubmissionBuilder, read_chat
from services.intake.openai.streaming import stream_answer
from services.intake.openai.surface import openai_router
from services.intake.openai.views import ChatCompletion, chat_completion
from services.intake.openapi import SUBMIT_ERRORS
from services.intake.rendering import json_response
from shared.errors import AnswerFailed, AnswerTimeout, UnsupportedParameter
from shared.jobs import Job

router = openai_router("chat")


@router.post(
    "/v1/chat/completions",
    responses=answers(ChatCompletion, streams=True)
    | openai_errors(*SUBMIT_ERRORS, UnsupportedParameter, AnswerFailed, AnswerTimeout),
    openapi_extra=asks("ChatJson"),
)
async def create(request: Request, context: Context, caller: Submitter) -> Response:
    """Ask, and wait for the answer. A call that is cut leaves a job that goes on."""
    build = SubmissionBuilder(context.models).of_chat
    asked, job = await accept(request, context, caller, read_chat, build, names=CHAT_NAMES)
    if asked.stream:
        include_usage = bool((asked.stream_options or {}).get("include_usage"))
        context.streams.refuse_if_full()
        sent = encoded(job, context.streams.stream(job), include_usage=include_usage)
        return stream_answer(context, job, sent, store=asked.store)
    return await _answer(context, job, store=asked.store)


async def _answer(context: AppContext, job: Job, *, store: bool) -> Response:
    job = await context.queries.wait_for_end_of(job, context.settings.response_wait)
    if not job.state.terminal:
        detail = f"the answer is not ready after {context.settings.response_wait:g} s; {job.id} goes on"
        raise AnswerTimeout(f"{detail}: read it with GET /v1/jobs/{job.id}")
    body = await context.queries.body(job)
    if not store:
        await forget_job(context, job)
    return json_response(chat_completion(body))
