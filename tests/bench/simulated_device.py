"""The whole worker over an engine that only takes the time of a device: how long would the device wait for tiles?

Claims, storage, decoders, previews, prompts and results are the worker's own; store and objects are in memory.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from shared.requests import StoredImage
from shared.settings.roles import Settings
from shared.tiling import grid, tile_count
from tests.unit.vision.worker_fixture import WorkerFixture, answer
from workers.vision.bench.goals import JOBS_PER_SECOND
from workers.vision.engine.base import EngineRequest, Event, Stage
from workers.vision.engine.stats import EngineStats
from workers.vision.images.decoder_pool import DecoderOptions, DecoderPool
from workers.vision.images.pipeline import ImagePipeline


class SimulatedDevice:
    """An engine whose device is busy for `seconds` a job, one after the other, and idle while no tiles are there."""

    def __init__(self, seconds: float, slots: int) -> None:
        self.slots = slots
        self._seconds = seconds
        self._device = threading.Lock()
        self._changed = threading.Lock()
        self._queued = 0  # with their tiles, the one on the device included
        self._empty_since: float | None = None
        self.waited_s = 0.0

    def submit(self, request: EngineRequest) -> Iterator[Event]:
        """Wait for the device and hold it."""
        yield Stage("vision")
        with self._changed:
            self._queued += 1
            if self._empty_since is not None:
                self.waited_s += time.perf_counter() - self._empty_since
                self._empty_since = None
        with self._device:
            threading.Event().wait(self._seconds)
            with self._changed:
                self._queued -= 1
                if not self._queued:
                    self._empty_since = time.perf_counter()
        yield answer(request.id)

    def cancel(self, request_id: str) -> None:
        """See `Engine`."""

    def stats(self) -> EngineStats:
        """No figures."""
        return EngineStats()

    def close(self) -> None:
        """See `Engine`."""


@dataclass
class BenchWorker(WorkerFixture):
    """A worker whose images are real and cut into `max_tiles` at most."""

    max_tiles: int = 12
    size: tuple[int, int] = (1, 1)

    def _described(self, key: str, data: bytes) -> StoredImage:
        chosen = grid(*self.size, self.max_tiles)
        return (
            super()
            ._described(key, data)
            .model_copy(update={"max_tiles": self.max_tiles, "grid": chosen, "tiles": tile_count(chosen, True)})
        )


class Served(NamedTuple):
    """What a run of jobs of one image each found."""

    tiles: int  #: of a job
    jobs_per_second: float  #: reached; handing the device from thread to thread takes some of the time
    share_waited: float  #: of the time, in which no job with its tiles was there


def serve(data: bytes, size: tuple[int, int], max_tiles: int, *, decoders: int, jobs: int) -> Served:
    """Serve `jobs` with the image `data` from a full queue."""
    tiles = tile_count(grid(*size, max_tiles), True)
    device = SimulatedDevice(1 / JOBS_PER_SECOND[tiles], slots=16)
    settings = Settings(decoders=decoders)
    with DecoderPool(decoders, DecoderOptions.of(settings)) as pool:
        decoder: Any = pool
        fixture = BenchWorker(engine=device, settings=settings, decoder=decoder, max_tiles=max_tiles, size=size)
        images = ImagePipeline(fixture.objects, pool, threads=device.slots + 2 * decoders)
        fixture.worker = replace(fixture.worker, images=images)
        for number in range(jobs):
            fixture.submit(f"question {number}", images=[data])
        fixture.deltas.start()
        threads = [threading.Thread(target=fixture.handle_hint) for _ in range(device.slots)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        fixture.deltas.close()
        images.close()
        fixture.images.close()
    return Served(tiles, jobs / seconds, device.waited_s / seconds)
