"""A `Submission` becomes a `PreparedJob`: model, images, parent, prompt and webhook are checked, nothing is stored."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.intake.clients.model_registry import ModelRegistry
from services.intake.clients.storage import Storage
from services.intake.clients.webhook_urls import WebhookUrlPolicy
from services.intake.queries import JobQueries
from services.intake.schemas.openai import FileBatchWebhook
from services.intake.schemas.requests import BatchWebhook, Webhook
from services.intake.submission.compose import InspectedImage, NewImage, ParentContext, compose
from services.intake.submission.file_store import FileStore
from services.intake.submission.image_headers import ImageInfo, inspect
from services.intake.submission.model import Submission
from services.intake.submission.prompt_length import PromptLengthCheck
from services.intake.uploads import FileReference, ImageSource, ImageUrl, Upload
from shared.affinity import affinity_of
from shared.conversation import Message
from shared.encryption import new_key
from shared.errors import NotFound, ObjectMissing, ResultLost, UnknownParent
from shared.ids import new_id
from shared.images import ImageLimits
from shared.jobs import PRIORITIES, Job, State
from shared.records import WebhookTarget
from shared.request_archive import placed
from shared.requests import Manifest, Request, StoredImage
from shared.settings.roles import IntakeSettings
from shared.store.transitions import SubmitResult
from shared.webhooks.events import JOB_ENDS, RESPONSE_ENDS

MAX_INLINE_BYTES = 8 << 10  #: of a request that its record keeps a copy of
MAX_INSPECT_INLINE_BYTES = 256 << 10  #: of an image whose header is read on the event loop
#: Fields that a retried job has in common with the first one.
_CLONED = (
    "tenant",
    "model",
    "priority",
    "start_within",
    "run_within",
    "images",
    "webhook",
    "metadata",
    "parent",
    "openai",
)


@dataclass(frozen=True)
class PreparedJob:
    """A job that is ready to be committed."""

    job: Job
    request: Request
    uploads: Sequence[Upload | None] = ()  #: the last images of the request; those before them are copied
    copies: Sequence[str | None] = ()  #: keys that the first images are copied from

    @property
    def sources(self) -> Sequence[str | Upload | None]:
        """What each image of the request is stored from: a key, a file that was sent, or None, by a worker."""
        return [*self.copies, *self.uploads]

    @property
    def manifest(self) -> bytes:
        """What is stored beside the images."""
        record = replace(self.job, request="").to_hash()
        return Manifest(record=record, request=self.request).model_dump_json().encode()

    def as_accepted(self, submitted: SubmitResult) -> Job:
        """Return the job as the store has it after `submitted`."""
        at = submitted.at
        return replace(self.job, created=at, expires=at + self.job.retain, position=submitted.position)


class Preparation:
    """Checks submissions. `inspected` of its methods holds images whose headers are known, by hash."""

    def __init__(
        self,
        *,
        queries: JobQueries,
        storage: Storage,
        files: FileStore,
        models: ModelRegistry,
        prompt_length: PromptLengthCheck,
        webhook_urls: WebhookUrlPolicy,
        settings: IntakeSettings,
    ) -> None:
        self._queries = queries
        self._storage = storage
        self._files = files
        self._models = models
        self._prompt_length = prompt_length
        self._webhook_urls = webhook_urls
        self._settings = settings
        self._keyring = settings.keyring
        self._limits = ImageLimits.of(settings)

    async def prepare(
        self,
        tenant: str,
        submission: Submission,
        inspected: dict[str, ImageInfo],
        *,
        trace: str,
        batch: str = "",
        id: str = "",
    ) -> PreparedJob:
        """Return the job that `submission` asks for, with a new id unless `id` is given. Raises `RequestError`."""
        id, asked, settings = id or new_id("job"), submission.question, self._settings
        model = await self._models.get(asked.model)
        uploads = [await self._upload(tenant, one, n) for n, one in enumerate(submission.uploads)]
        images = [await self._inspect(upload, n, inspected) for n, upload in enumerate(uploads)]
        parent = await self._parent(tenant, asked.parent) if asked.parent is not None else ParentContext()
        request = compose(id, asked, images, parent, model=model, settings=settings)
        await self._prompt_length.refuse_too_long(request, model)
        job = Job(
            id=id,
            tenant=tenant,
            model=model.id,
            priority=PRIORITIES.index(asked.priority),
            max_attempts=settings.max_attempts,
            retain=settings.retain_for,
            start_within=asked.start_within or settings.start_within,
            run_within=asked.run_within or settings.run_within,
            images=[image.view() for image in request.images],
            webhook=await self.webhook(tenant, asked.webhook, _default_events(submission)),
            metadata=asked.metadata,
            parent=asked.parent or "",
            affinity=affinity_of(request),
            request=_inline(request),
            seal=new_key(),
            custom_id=submission.custom_id,
            openai=submission.openai,
            batch=batch,
            trace=trace,
        )
        sent = [one if isinstance(one, Upload) else None for one in uploads]
        return PreparedJob(job, request, sent, [image.key for image in parent.images])

    async def clone(self, old: Job, *, trace: str) -> PreparedJob:
        """Return a new job that asks what `old` was asked. Raises `NotFound` where that is no longer stored."""
        id = new_id("job")
        try:
            asked = await self._storage.request(old.id)
        except ObjectMissing as error:
            raise NotFound("the request of this job is no longer stored, so it can't be retried") from error
        images = _as_stored(asked.images, old)
        request = asked.model_copy(update={"images": placed(id, images)})
        job = Job(
            id=id,
            **{name: getattr(old, name) for name in _CLONED},
            max_attempts=self._settings.max_attempts,
            retain=self._settings.retain_for,
            retry_of=old.id,
            trace=trace,
            affinity=affinity_of(request),
            request=_inline(request),
            seal=new_key(),
        )
        copies = [None if image.url else image.key for image in images]
        return PreparedJob(job, request, copies=copies)

    async def webhook(
        self,
        tenant: str,
        asked: Webhook | BatchWebhook | FileBatchWebhook | None,
        events: Sequence[str],
        field: str = "webhook",
    ) -> WebhookTarget | None:
        """Return the `webhook` of a record, with `events` where none are named, and its headers encrypted.

        Raises `WebhookRefused`; `field` is the place of `asked` in the request.
        """
        if asked is None:
            return None
        host = await self._webhook_urls.host(asked.url, f"{field}.url")
        return WebhookTarget(
            url=asked.url,
            host=host,
            events=list(asked.events or events),
            payload=asked.payload,
            headers=self._keyring.encrypt_headers(asked.headers, tenant),
        )

    async def _upload(self, tenant: str, sent: ImageSource, n: int) -> Upload | ImageUrl:
        if isinstance(sent, FileReference):
            return await self._files.image(tenant, sent, n, self._settings.max_image_bytes)
        return sent

    async def _inspect(self, upload: Upload | ImageUrl, n: int, inspected: dict[str, ImageInfo]) -> NewImage:
        if isinstance(upload, ImageUrl):
            return upload
        info = inspected.get(upload.sha256)
        if info is None:
            if upload.size <= MAX_INSPECT_INLINE_BYTES:
                info = inspect(upload.file, upload.size, self._limits, n)
            else:
                info = await asyncio.to_thread(inspect, upload.file, upload.size, self._limits, n)
            inspected[upload.sha256] = info
        return InspectedImage(upload, info)

    async def _parent(self, tenant: str, parent: str) -> ParentContext:
        try:
            job = await self._queries.get(tenant, parent)
            if job.state is not State.SUCCEEDED:
                raise UnknownParent(field="parent")
            output = await self._storage.output(job)
            request = await self._storage.request(parent)
        except (NotFound, ObjectMissing, ResultLost) as error:
            raise UnknownParent(field="parent") from error
        answer = Message(role="assistant", content=output.text)
        images = _as_stored(request.images, job)
        return ParentContext((*request.messages, answer), images, request.groups)


def _as_stored(images: Sequence[StoredImage], job: Job) -> tuple[StoredImage, ...]:
    """Return the images of `job`: those by URL that a worker has stored are like any other."""
    return tuple(image.as_stored(seen) for image, seen in zip(images, job.images, strict=True))


def _default_events(submission: Submission) -> Sequence[str]:
    """Return the events of a webhook whose request names none: the ends of a job, under the names of its surface."""
    made_as_response = submission.openai is not None and submission.openai.api == "responses"
    return RESPONSE_ENDS if made_as_response else JOB_ENDS


def _inline(request: Request) -> str:
    """Return the copy of `request` that its record keeps, "" for a large one."""
    text = request.model_dump_json()
    return text if len(text.encode()) <= MAX_INLINE_BYTES else ""
