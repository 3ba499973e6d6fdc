"""A job's answer as a stream of server-sent events of OpenAI's surface."""

from collections.abc import AsyncIterator

from fastapi.responses import StreamingResponse

from services.intake.context import AppContext
from services.intake.lifecycle import forget_job
from shared.jobs import Job

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def stream_answer(context: AppContext, job: Job, sent: AsyncIterator[bytes], *, store: bool) -> StreamingResponse:
    """Return the answer that sends `sent`, and deletes the job behind it unless it is to `store`."""
    if not store:
        sent = _forgetting(context, job, sent)
    return StreamingResponse(sent, headers=_HEADERS, media_type="text/event-stream")


async def _forgetting(context: AppContext, job: Job, sent: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        async for piece in sent:
            yield piece
    finally:  # in the background, since a client that has the last piece may close the connection before this ends
        context.background.add(forget_job(context, job))
