"""OpenAI's webhook events: the body that `client.webhooks.unwrap()` of its SDKs verifies and types.

Each is a superset of OpenAI's envelope that is Standard Webhooks 1.0 as well: `timestamp` beside `created_at`, and more
in `data` than the id.
"""

from typing import Annotated, Literal

from pydantic import Field

from shared.batches import Batch
from shared.jobs import Job
from shared.openai.ids import response_id
from shared.openai.responses import ResponseBody, Status
from shared.views import Body, Moment


class ThinResponse(Body):
    """What a `thin` webhook says of a response; `truncated` where a full one was too large."""

    id: str
    object: Literal["response"] = "response"
    status: Status
    metadata: dict[str, str]
    truncated: Literal[True] | None = None


class BatchData(Body):
    """What a webhook says of a batch."""

    id: str
    object: Literal["batch"] = "batch"
    status: Literal["completed", "failed", "expired", "cancelled"]
    metadata: dict[str, str]


class OpenAiEvent(Body):
    """The body of a webhook about a response, or a batch of a file, as OpenAI's SDKs read it."""

    id: Annotated[str, Field(description="of the event: the same in the webhooks to several endpoints")]
    object: Literal["event"] = "event"
    type: Literal[
        "response.completed",
        "response.failed",
        "response.incomplete",
        "response.cancelled",
        "batch.completed",
        "batch.failed",
        "batch.expired",
        "batch.cancelled",
    ]
    created_at: int
    timestamp: Moment
    sequence: Annotated[int | None, Field(description="order among the messages of one job or batch")] = None
    test: Annotated[Literal[True] | None, Field(description="sent by a test of the endpoint: `data` is an example")] = (
        None
    )
    data: ResponseBody | ThinResponse | BatchData


def thin_response(job: Job, type: str) -> ThinResponse:
    """Return the `data` of a `thin` event about the response that `job` is."""
    return ThinResponse.model_validate(
        {"id": response_id(job.id), "status": type.removeprefix("response."), "metadata": job.metadata}
    )


def batch_data(batch: Batch, type: str) -> BatchData:
    """Return the `data` of an event about `batch`."""
    return BatchData.model_validate({"id": batch.id, "status": type.removeprefix("batch."), "metadata": batch.metadata})
