"""All errors on one page: one root; the docstring is the default message; HTTP status and stable code on the class.

TileqError
├── RequestError            what a client hears, as application/problem+json (RFC 9457)
│   ├── 400 Malformed · 401 MissingKey, InvalidKey · 403 InsufficientScope · 404 NotFound · 405 MethodNotAllowed
│   ├── 408 HeadTooSlow · 409 IdempotencyInProgress, JobNotEnded, JobFailed · 410 ResultLost
│   ├── 413 BodyTooLarge, ImageTooLarge · 431 HeadTooLarge
│   ├── 415 UnsupportedMediaType, UnsupportedImageType
│   ├── 422 InvalidField, UnknownModel, UndecodableImage, … WebhookRefused
│   ├── 429 RateLimited, QuotaExceeded
│   ├── 500 AnswerFailed · 504 AnswerTimeout (OpenAI's surface)
│   └── 503 Overloaded, QueueUnavailable, StorageUnavailable
├── Permanent               a job that can never succeed: failed at once, no retry
└── Transient               a transient error: retried, up to `max_attempts`
"""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.limits import LimitState

#: The failures that the store itself finds: code of the job's error → its message. `%s` is `max_attempts`. The Lua
#: scripts read them too, so a message holds no single quotes.
STORE_FAILURES: Mapping[str, str] = {
    "not_started_in_time": "no worker started the job within start_within; submit it again or allow more time",
    "timed_out": "the job did not end within run_within, all attempts together; allow more time",
    "worker_lost": "the worker was lost on each of %s attempts (its log says why); submit the job again",
}


class TileqError(Exception):
    """An error of tileq."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (type(self).__doc__ or "").strip())

    @property
    def detail(self) -> str:
        """The message: what happened, which input, what to do."""
        return str(self)


class RequestError(TileqError):
    """The request can't be served."""

    status = 400
    code = "malformed_request"
    title = "Bad request"
    retryable = False

    def __init__(
        self,
        detail: str = "",
        *,
        image: int | None = None,
        field: str | None = None,
        errors: Sequence[Mapping[str, Any]] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.image = image
        self.field = field
        self.errors = errors
        self.retry_after = retry_after


class Malformed(RequestError):
    """The request body is not what its content type says."""


class MissingKey(RequestError):
    """Send `Authorization: Bearer tq_…`; `tileq keys create` makes a key."""

    status, code, title = 401, "missing_key", "API key missing"


class InvalidKey(RequestError):
    """This API key is unknown, expired or revoked."""

    status, code, title = 401, "invalid_key", "API key not accepted"


class InsufficientScope(RequestError):
    """This API key does not allow this call; `tileq keys create --scope` makes one that does."""

    status, code, title = 403, "insufficient_scope", "Scope missing"

    def __init__(self, scope: str = "") -> None:
        super().__init__(
            f"this API key lacks the scope `{scope}`, which this call needs; `tileq keys create --scope {scope}` makes "
            "one that has it"
        )
        self.scope = scope


class NotFound(RequestError):
    """Nothing has this id."""

    status, code, title = 404, "not_found", "Not found"


class MethodNotAllowed(RequestError):
    """This path does not allow this method."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"


class HeadTooSlow(RequestError):
    """The headers of the request did not arrive in time."""

    status, code, title, retryable = 408, "request_timeout", "Request too slow", True


class HeadTooLarge(RequestError):
    """The request line and headers, or the trailers, are too large; large values belong into the body."""

    status, code, title = 431, "headers_too_large", "Headers too large"


class IdempotencyInProgress(RequestError):
    """The first request with this Idempotency-Key is still being processed; repeat it later."""

    status, code, title, retryable = 409, "idempotency_in_progress", "First request still in progress", True


class JobNotEnded(RequestError):
    """The job has not ended yet."""

    status, code, title, retryable = 409, "job_not_ended", "Job not ended", True


class JobFailed(RequestError):
    """The job ended without a result."""

    status, code, title = 409, "job_failed", "Job failed"


class ResultLost(RequestError):
    """The job succeeded, but its result is no longer in the object storage; retry the job to compute it again."""

    status, code, title = 410, "result_lost", "Result lost"


class BodyTooLarge(RequestError):
    """The request body is larger than this service takes."""

    status, code, title = 413, "body_too_large", "Body too large"


class ImageTooLarge(RequestError):
    """An image has more bytes than this service takes."""

    status, code, title = 413, "image_too_large", "Image too large"


class UnsupportedMediaType(RequestError):
    """Send multipart/form-data or application/json."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class UnsupportedImageType(RequestError):
    """Images must be JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or, with the extra `heif`, HEIC by their content."""

    status, code, title = 415, "unsupported_image_type", "Unsupported image type"


class InvalidField(RequestError):
    """A field has a value this service does not take."""

    status, code, title = 422, "invalid_field", "Invalid field"


class UnsupportedParameter(InvalidField):
    """A field that other services know and this one does not support."""

    code, title = "unsupported_parameter", "Unsupported parameter"


class UnknownModel(RequestError):
    """This service has no such model; GET /v1/models lists them."""

    status, code, title = 422, "unknown_model", "Unknown model"


class UndecodableImage(RequestError):
    """An image can't be decoded."""

    status, code, title = 422, "undecodable_image", "Undecodable image"


class ImageTooManyPixels(RequestError):
    """An image has more pixels or frames than this service takes."""

    status, code, title = 422, "image_too_many_pixels", "Too many pixels"


class TooManyImages(RequestError):
    """The job has more images than this service takes."""

    status, code, title = 422, "too_many_images", "Too many images"


class TooManyTiles(RequestError):
    """The images of the job make more tiles than this service or model takes; lower `tiles`."""

    status, code, title = 422, "too_many_tiles", "Too many tiles"


class ImageCountMismatch(RequestError):
    """The `<image>` marks in the user texts and the images differ in number."""

    status, code, title = 422, "image_count_mismatch", "Images and placeholders differ"


class PromptTooLong(RequestError):
    """Images and text leave no room for an answer in the model's context."""

    status, code, title = 422, "prompt_too_long", "Prompt too long"


class UnknownParent(RequestError):
    """`parent` must be a job of yours that succeeded and still exists."""

    status, code, title = 422, "unknown_parent", "Unknown parent"


class UnknownFile(RequestError):
    """`file_id` must be a file of yours that still exists; GET /v1/files lists them."""

    status, code, title = 422, "unknown_file", "Unknown file"


class ImageUrlsDisabled(RequestError):
    """This service fetches no images (TILEQ_IMAGE_URLS is false): send the bytes, or upload them to /v1/files."""

    status, code, title = 422, "image_urls_disabled", "Images by URL are off"


class ImageUrlRefused(RequestError):
    """This image URL is not one that tileq may call."""

    status, code, title = 422, "image_url_refused", "Image URL refused"


class IdempotencyMismatch(RequestError):
    """This Idempotency-Key was used for another request; use a new key."""

    status, code, title = 422, "idempotency_mismatch", "Idempotency-Key reused"


class WebhookRefused(RequestError):
    """This webhook URL is not one that tileq may call."""

    status, code, title = 422, "webhook_refused", "Webhook refused"


class WebhookUnreachable(RequestError):
    """The webhook endpoint gave no answer to the test."""

    status, code, title = 422, "webhook_unreachable", "Webhook endpoint unreachable"


class TooManyEndpoints(RequestError):
    """This tenant has as many webhook endpoints as it may have; delete one."""

    status, code, title = 422, "too_many_endpoints", "Too many webhook endpoints"


class LimitPassed(RequestError):
    """A limit of the caller's tenant would be passed."""

    status, retryable = 429, True

    def __init__(self, detail: str = "", *, limit: LimitState | None = None) -> None:
        super().__init__(detail, retry_after=limit.reset_s if limit else None)
        self.limit = limit


class RateLimited(LimitPassed):
    """This tenant has sent too many requests; repeat the request later."""

    code, title = "rate_limited", "Too many requests"


class QuotaExceeded(LimitPassed):
    """This tenant has used up what it may use; nothing was accepted."""

    code, title = "quota_exceeded", "Quota exceeded"


class Overloaded(RequestError):
    """The queue is full, so nothing was accepted; repeat the request later."""

    status, code, title, retryable = 503, "overloaded", "Overloaded", True


class QueueUnavailable(RequestError):
    """The job store can't be reached or is full; repeat the request later."""

    status, code, title, retryable = 503, "queue_unavailable", "Queue unavailable", True


class StoreRejected(QueueUnavailable):
    """The job store refused to write, because its memory is full for example; repeat the request later."""


class StorageUnavailable(RequestError):
    """The object storage can't be reached; repeat the request later."""

    status, code, title, retryable = 503, "storage_unavailable", "Storage unavailable", True


class AnswerFailed(RequestError):
    """The job behind this call ended without an answer; `status` 400 tells that the request was at fault."""

    status, code, title = 500, "job_failed", "Job failed"

    def __init__(self, code: str, detail: str, *, status: int = 500) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status


class AnswerTimeout(RequestError):
    """The job behind this call has not ended in time; it goes on."""

    status, code, title = 504, "answer_timeout", "Answer not ready in time"


class Permanent(TileqError):
    """The job can never succeed."""

    def __init__(self, code: str, detail: str, *, image: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.image = image


class Transient(TileqError):
    """The job failed with a transient error."""

    def __init__(self, code: str, detail: str, *, image: int | None = None) -> None:
        super().__init__(detail)
        self.code = code
        self.image = image


class ObjectMissing(TileqError):
    """The object storage has no such object."""


class StorageDown(TileqError):
    """The object storage did not answer, or answered with an error of its own."""
