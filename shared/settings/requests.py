"""Settings of what requests and the files of batches may hold."""

from pydantic import Field

from shared.settings.base import ProcessSettings
from shared.settings.images import ImageSettings


class RequestSettings(ImageSettings):
    """What a request may hold."""

    max_body_bytes: int = Field(64 << 20, ge=1, description="one request, all images and fields")
    max_json_memory: int = Field(
        512 << 20,
        ge=1,
        description="JSON bodies that one intake process holds at once, bytes; above it, 503 overloaded",
    )
    max_file_bytes: int = Field(
        200 << 20, ge=1, description="one file of `POST /v1/files`; of an image, max_image_bytes"
    )
    max_images: int = Field(32, ge=1, description="images of one job, those of its parents included")
    max_tiles: int = Field(200, ge=1, description="tiles of one job, all images and thumbnails together")
    max_new_tokens: int = Field(4_096, ge=1, description="largest `max_new_tokens` of a request")
    max_batch_jobs: int = Field(1_000, ge=1, description="jobs of one batch")
    max_queued: int = Field(100_000, ge=1, description="queued jobs of the service; above it, 503 overloaded")


class BatchSettings(ProcessSettings):
    """Batches of files (`input_file_id`)."""

    max_batch_lines: int = Field(50_000, ge=1, le=1_000_000, description="lines of a batch's file")
    max_batch_bytes: int = Field(200 << 20, ge=1, description="bytes of a batch's file")
    max_batch_line_bytes: int = Field(16 << 20, ge=1, description="bytes of one line")
    max_batch_window: float = Field(86_400 * 7, gt=0, description="largest `completion_window`")
    batch_queued: int = Field(
        10_000,
        ge=1,
        description="batches queue lines while their tenant has fewer queued jobs than this, and than half of what "
        "limit_queued and max_queued allow; further lines wait in their file",
    )
    batch_slots: int = Field(2, ge=1, le=64, description="batches that one process works on at once")
