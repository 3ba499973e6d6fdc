"""Ids of OpenAI's surface: the job's own with another beginning, so that each surface finds what the other made."""

RESPONSE, CHAT, MESSAGE = "resp_", "chatcmpl-", "msg_"


def response_id(job_id: str) -> str:
    """Return `resp_…` of `job_…`."""
    return RESPONSE + _suffix(job_id)


def chat_id(job_id: str) -> str:
    """Return `chatcmpl-…` of `job_…`."""
    return CHAT + _suffix(job_id)


def message_id(job_id: str) -> str:
    """Return the id of the message that answers `job_…`."""
    return MESSAGE + _suffix(job_id)


def input_id(job_id: str, n: int) -> str:
    """Return the id of input message number `n` of `job_…`."""
    return f"{MESSAGE}{_suffix(job_id)}_{n}"


def job_id(id: str) -> str:
    """Return `job_…` of `resp_…` or `chatcmpl-…`; anything else comes back as it is."""
    for prefix in (RESPONSE, CHAT):
        if id.startswith(prefix):
            return "job_" + id.removeprefix(prefix)
    return id


def _suffix(job: str) -> str:
    return job.removeprefix("job_")
