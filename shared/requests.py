"""The request of a job in the one form that is stored: the manifest `request.json`, see request_archive.py.

Intake turns form fields, JSON, `parent` and batches into it; the worker reads nothing else, and
`python -m workers.reconciler --recover` builds a lost record again from it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.conversation import Message
from shared.records import JobImage


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Generation(_Frozen):
    """How the answer is decoded; the names are those of transformers' GenerationConfig. `temperature` 0 is greedy."""

    max_new_tokens: Annotated[int, Field(ge=1, strict=True)] = 512
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 0
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=1, le=1000, strict=True)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    num_beams: Annotated[int, Field(ge=1, le=8, strict=True)] = 1
    seed: Annotated[int, Field(ge=0, lt=2**63, strict=True)] | None = None
    json_schema: Annotated[
        dict[str, Any] | None, Field(description="JSON schema that the answer follows, unless its length cuts it")
    ] = None
    stop: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=100)], ...], Field(max_length=8)] = ()


class StoredImage(_Frozen):
    """One image of a job: its object, or `{archive}/{member}`, and the tiles that the model sees of it.

    Of an image with a `url` nothing is known until a worker has stored it under `key`; its numbers and texts are 0 and
    empty, and `tiles` is the most that it may have.
    """

    key: str
    url: str = Field("", repr=False)  # its query may hold a signature
    media_type: str
    bytes: int
    width: int
    height: int
    sha256: str
    max_tiles: int = Field(description="1..40, as requested")
    grid: tuple[int, int] = Field(description="columns, rows")
    tiles: int = Field(description="tiles of the grid and the thumbnail")

    def view(self) -> JobImage:
        """Return what the record keeps and the API shows of it."""
        return JobImage() if self.url else JobImage.model_validate(self.model_dump())

    def as_stored(self, seen: JobImage) -> "StoredImage":
        """Return this image with what the record of its job knows of it, without its `url` once a worker stored it."""
        if not self.url or seen.sha256 is None:
            return self
        known = seen.model_dump(exclude_none=True, exclude={"warning"})
        return StoredImage.model_validate(self.model_dump() | known | {"url": ""})


class Request(_Frozen):
    """A whole question: every message of the conversation and every image, those of the parents included.

    Each `<image>` in the user texts stands for the next `groups[i]` images: one each if the request placed them, all of
    them if it placed none (one block before the first user text).
    """

    model: str
    messages: tuple[Message, ...]
    images: tuple[StoredImage, ...] = ()
    groups: tuple[int, ...] = ()
    thumbnail: bool = True
    generation: Generation = Generation()


class Manifest(_Frozen):
    """`request.json`: the request and the record it was submitted with."""

    version: Literal[1] = 1
    record: dict[str, str]
    request: Request
