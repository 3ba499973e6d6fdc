"""A worker with everything around it in memory: store, objects, broker, image decoder and engine."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from shared.conversation import Message
from shared.encryption import new_key
from shared.errors import QueueUnavailable, StorageDown
from shared.events import TextDelta, stream_key
from shared.ids import new_id
from shared.jobs import Job, State
from shared.models import BY_ID
from shared.outbound.connection import Deadline
from shared.request_archive import MANIFEST, pack, placed
from shared.requests import Generation, Manifest, Request, StoredImage
from shared.settings.roles import Settings
from shared.storage import MemoryStorage, archive_key, image_key
from shared.store import transitions
from shared.store.client import Store, memory_store
from shared.store.command import StoreCommand
from shared.tiling import tile_count
from tests.waiting import eventually
from workers.vision.affinity import CachedPrompts
from workers.vision.attempt import InFlightJobs
from workers.vision.deltas import DeltaWriter
from workers.vision.engine.base import Done, Engine, EngineRequest, Event
from workers.vision.engine.echo import EchoEngine
from workers.vision.engine.factory import ServedModel
from workers.vision.engine.stats import EngineStats
from workers.vision.heartbeat import Heartbeat, WorkerRegistration
from workers.vision.images.decode import DecodeError
from workers.vision.images.decoder_pool import TiledImage
from workers.vision.images.pipeline import ImagePipeline
from workers.vision.images.url_images import UrlImages
from workers.vision.shutdown import GracefulShutdown
from workers.vision.storage_outages import PROBE_KEY, StorageOutages
from workers.vision.worker import Worker

MODEL = "tileq-demo"
PER_TILE = 196
SIDE = 8
BROKEN = b"no image"


class FlakyStore(Store):
    """A store that is unavailable to the scripts that `away` is true of; remembers the calls it took.

    Without `wakes` it is to slots that wait.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.client, store.prefix)
        self.away: Callable[[str], bool] = lambda script: False
        self.wakes = True
        self.calls: list[StoreCommand[Any]] = []

    def run(self, call: StoreCommand[Any]) -> Any:
        if self.away(call.script):
            raise QueueUnavailable("away")
        self.calls.append(call)
        return super().run(call)

    def run_when_woken(self, command: StoreCommand[Any], slot: str, seconds: float) -> Any:
        if not self.wakes:
            raise QueueUnavailable("away")
        return super().run_when_woken(command, slot, seconds)


class FlakyObjects(MemoryStorage):
    """An object storage that does not take keys ending in `refused`, and takes others when `gate` is open.

    It does not return keys ending in `unreadable`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refused = self.unreadable = "nothing"
        self.gate: Callable[[str], object] = lambda key: None

    def put(self, key: str, data: Any, media_type: str, size: int | None = None, sha256: str = "") -> None:
        is_down = (self.refused, self.unreadable) != ("nothing", "nothing")
        if key.endswith(self.refused) or (key == PROBE_KEY and is_down):
            raise StorageDown("503")
        self.gate(key)
        super().put(key, data, media_type, size, sha256)

    def get(self, key: str, size: int | None = None) -> bytes:
        if key.endswith(self.unreadable):
            raise StorageDown("503")
        return super().get(key, size)


class RecordedHints:
    """Remembers hints instead of publishing them."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.messages: list[str] = []

    def job(self, model: str, job: str, *, unless_waiting: int = 0) -> bool:
        self.jobs.append(job)
        return True

    def deliveries(self, *messages: str) -> bool:
        self.messages += messages
        return True

    def check(self) -> None:
        """See `Publisher`."""


class FakeDecoder:
    """Cuts every image into a 2x1 grid of grey tiles while `gate` is set; raises `error` if there is one."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.asked: list[tuple[int, bool]] = []

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        self.gate.wait(10)
        if self.error:
            raise self.error
        self.asked.append((max_tiles, thumbnail))
        if image == BROKEN:
            raise DecodeError("it is no whole image")
        grid = (min(2, max_tiles), 1)
        tiles = np.full((tile_count(grid, thumbnail), SIDE, SIDE, 3), 128, np.uint8)
        return TiledImage(tiles, grid, 64, 32)


class FakeWeb:
    """Serves `pages` by their URLs, or raises the error that stands there; remembers what it was asked."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | Exception] = {}
        self.asked: list[str] = []

    def get(self, url: str, deadline: Deadline) -> bytes:
        deadline.left()
        self.asked.append(url)
        page = self.pages[url]
        if isinstance(page, Exception):
            raise page
        return page


class ScriptedEngine:
    """Yields `events`, raises an exception among them; remembers what it was asked."""

    slots = 1

    def __init__(self, *events: Event | Exception) -> None:
        self.events = events
        self.asked: list[EngineRequest] = []
        self.cancelled: list[str] = []
        self.busy_since: float | None = None
        self.step_allowance = 0.0
        self.stats_calls = 0

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        self.asked.append(request)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event

    def cancel(self, request_id: str) -> None:
        self.cancelled.append(request_id)

    def stats(self) -> EngineStats:
        self.stats_calls += 1
        return EngineStats(busy_since=self.busy_since, step_allowance=self.step_allowance)

    def close(self) -> None:
        pass


def by_url(url: str) -> StoredImage:
    """An image as intake stores it that a request names by URL."""
    blank: dict[str, Any] = {"media_type": "", "bytes": 0, "width": 0, "height": 0, "sha256": ""}
    return StoredImage(key="", url=url, **blank, max_tiles=6, grid=(6, 1), tiles=7)


def answer(text: str = "yes", finish_reason: Literal["stop", "length"] = "stop") -> Done:
    return Done(
        text=text,
        finish_reason=finish_reason,
        prompt_tokens=7,
        image_tokens=4,
        cached_tokens=3,
        completion_tokens=2,
        timings={"vision": 0.1, "prefill": 0.2, "decode": 0.3, "first_token": 0.3},
    )


@dataclass
class WorkerFixture:
    """A `Worker` and its threads over in-memory doubles."""

    engine: Engine = field(default_factory=EchoEngine)
    settings: Settings = field(default_factory=lambda: Settings(retry_backoff=0))
    store: FlakyStore = field(default_factory=lambda: FlakyStore(memory_store()))
    objects: FlakyObjects = field(default_factory=FlakyObjects)
    hints: RecordedHints = field(default_factory=RecordedHints)
    decoder: FakeDecoder = field(default_factory=FakeDecoder)
    web: FakeWeb = field(default_factory=FakeWeb)
    jobs: InFlightJobs = field(default_factory=InFlightJobs)
    hold_s: float = 30

    def __post_init__(self) -> None:
        self.deltas = DeltaWriter(self.store.client, self.store.prefix, self.settings.delta_interval)
        self.shutdown = GracefulShutdown(self.store, self.jobs, self.engine, self.settings.shutdown_grace)
        self.images = ImagePipeline(self.objects, self.decoder, threads=4)
        storage = StorageOutages(self.objects, self.hold_s, retry_interval_s=0.05)
        self.url_images = UrlImages(storage, self.web, self.settings, max_jobs=1)
        self.registration = WorkerRegistration(self.store, MODEL, "worker-1", {"id": MODEL})
        self.heartbeat = Heartbeat(
            self.store,
            self.jobs,
            self.engine,
            self.registration,
            lease=self.settings.lease,
            interval=self.settings.cancel_interval,
        )
        self.worker = Worker(
            "worker-1",
            self.settings,
            self.store,
            storage,
            self.hints,
            ServedModel(self.engine, BY_ID[MODEL], SIDE, None),
            self.images,
            self.url_images,
            self.deltas,
            self.jobs,
            self.shutdown.stopping,
            wait_s=0,
        )

    @contextmanager
    def open(self) -> Iterator["WorkerFixture"]:
        """With its threads running."""
        self.deltas.start()
        self.heartbeat.start()
        try:
            yield self
        finally:
            self.decoder.gate.set()
            self.heartbeat.close()
            self.deltas.close()
            self.images.close()
            self.url_images.close()

    def submit(
        self,
        *texts: str,
        images: Sequence[bytes] = (),
        urls: Sequence[str] = (),
        groups: tuple[int, ...] = (),
        inline: bool = True,
        generation: Generation | None = None,
        record: dict[str, Any] | None = None,
        former: bool = False,
        **changes: Any,
    ) -> Job:
        """Take a job in as intake does, `former`: as that of a former release did."""
        id = new_id("job")
        messages = tuple(
            Message(role="assistant" if n % 2 else "user", content=text) for n, text in enumerate(texts or ("hello",))
        )
        stored = tuple(self._described(image_key(id, n), data) for n, data in enumerate(images))
        stored = stored if former else placed(id, (*stored, *map(by_url, urls)))
        request = Request(
            model=MODEL, messages=messages, images=stored, groups=groups, generation=generation or Generation()
        )
        seal = "" if former else new_key()
        job = Job(id=id, tenant="acme", model=MODEL, start_within=60, run_within=60, retain=60, seal=seal)
        views = [image.view() for image in stored]
        job = replace(
            job,
            **({"images": views, "request": request.model_dump_json() if inline else ""} | changes | (record or {})),
        )
        manifest = Manifest(record=job.to_hash(), request=request)
        members = {f"image-{n}": data for n, data in enumerate(images)}
        self._store_objects(id, {MANIFEST: manifest.model_dump_json().encode()} | members, former)
        self.store.run(transitions.submit("acme", [job], max_queued=1000, grace=0))
        return job

    def _store_objects(self, id: str, members: Mapping[str, bytes], former: bool) -> None:
        objects = {f"jobs/{id}/{name}": data for name, data in members.items()} if former else {}
        for key, data in (objects or {archive_key(id): pack(members)}).items():
            self.objects.put(key, data, "")

    def _described(self, key: str, data: bytes) -> StoredImage:
        return StoredImage(
            key=key,
            media_type="image/png",
            bytes=len(data),
            width=64,
            height=32,
            sha256=hashlib.sha256(data).hexdigest(),
            max_tiles=6,
            grid=(2, 1),
            tiles=3,
        )

    def with_cache(self, cached: CachedPrompts) -> Worker:
        """The worker, with another memory of what its engine has cached."""
        return replace(self.worker, cached=cached)

    def handle_hint(self, hint: str = "hint") -> int:
        return self.worker.handle_hint(hint)

    def handle_hint_in_thread(self) -> threading.Thread:
        """Handle a hint in a thread, as Celery's pool does."""
        thread = threading.Thread(target=self.handle_hint)
        thread.start()
        return thread

    def read(self, job: Job) -> Job:
        found = self.store.run(transitions.read_job("", job.id))
        assert isinstance(found, Job)
        return found

    def state(self, job: Job) -> State:
        return self.read(job).state

    def running(self, job: Job, stage: str = "decode") -> Job:
        """Wait until the store has heard that `job` is in `stage`."""
        eventually(lambda: self.read(job).stage == stage)
        return self.read(job)

    def result(self, job: Job) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.objects.get(self.read(job).result))
        return found

    def deltas_of(self, job: Job) -> list[TextDelta]:
        entries: Any = self.store.client.xrange(stream_key(self.store.prefix, job.id))
        return [TextDelta.from_entry(fields) for _, fields in entries]
