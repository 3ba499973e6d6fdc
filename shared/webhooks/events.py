"""The types of webhook events: native ones, and OpenAI's of responses and batches of files.

A job or batch has one event for each change that is told. A response's end has two names, of which a subscriber hears
the first that it wants: OpenAI's, then the native one (`create_job_deliveries` in shared/store/lua/prelude.lua).
"""

JOB_ENDS = ("job.succeeded", "job.failed", "job.cancelled", "job.expired")
RESPONSE_ENDS = ("response.completed", "response.failed", "response.incomplete", "response.cancelled")
#: Of batches of files.
BATCH_ENDS = ("batch.completed", "batch.failed", "batch.expired", "batch.cancelled")
#: What endpoints may subscribe to.
EVENT_TYPES = ("job.started", *JOB_ENDS, *RESPONSE_ENDS, "batch.ended", *BATCH_ENDS)


def is_openai(type: str) -> bool:
    """Tell whether an event is told in OpenAI's envelope, `{"id", "object": "event", "type", "created_at", "data"}`."""
    return type in RESPONSE_ENDS or type in BATCH_ENDS
