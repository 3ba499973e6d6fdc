"""The images of a job: fetched, cut into tiles in the sandbox, and shown as the model sees them.

Everything runs in threads of its own, so that the images of one job go side by side, and the job's thread stays free
to hear that nobody wants them any more.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

import numpy as np
import structlog
from PIL import Image
from prometheus_client import Counter

from shared.errors import ObjectMissing, Permanent, StorageDown, Transient
from shared.requests import StoredImage
from shared.storage import ObjectStorage, view_key
from shared.tiling import TILE
from workers.vision.hands import Held
from workers.vision.render import draw
from workers.vision.sandbox import Sandbox, SandboxError, Tiled, UndecodableImage

T = TypeVar("T")
R = TypeVar("R")

LISTEN = 0.1  #: seconds between two looks whether the job is still wanted
CELL = 112  #: pixels of a side of a shown tile

log = structlog.get_logger(__name__)
TILES = Counter("tileq_vision_tiles_total", "Tiles cut, thumbnails included")


class Images:
    """What a worker does with images. `threads` bounds what goes side by side, over all jobs."""

    def __init__(self, objects: ObjectStorage, sandbox: Sandbox, threads: int) -> None:
        self._objects = objects
        self._sandbox = sandbox
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")

    def fetch(self, held: Held, images: Sequence[StoredImage]) -> list[bytes]:
        """Return the bytes of `images` as they were taken in."""
        return self._each(held, self._fetch, images)

    def tile(self, held: Held, images: Sequence[StoredImage], data: Sequence[bytes], thumbnail: bool) -> list[Tiled]:
        """Cut `data` into tiles, as many as `images` say."""

        def cut(one: tuple[int, StoredImage, bytes]) -> Tiled:
            n, image, content = one
            return self._tile(n, content, image.max_tiles, thumbnail)

        tiled = self._each(held, cut, list(zip(range(len(images)), images, data, strict=True)))
        TILES.inc(sum(len(one.tiles) for one in tiled))
        return tiled

    def show(self, job: str, tiled: Sequence[Tiled]) -> "list[Future[None]]":
        """Begin to store what the model sees of each image; nothing depends on it."""
        return [self._pool.submit(self._show, job, n, one) for n, one in enumerate(tiled)]

    def close(self) -> None:
        """Let go of the threads; what waits is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _each(self, held: Held, act: Callable[[T], R], items: Sequence[T]) -> list[R]:
        futures = [self._pool.submit(act, item) for item in items]
        try:
            while wait(futures, LISTEN, FIRST_EXCEPTION).not_done:
                held.check()
                if any(future.done() and future.exception() for future in futures):
                    break
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def _fetch(self, image: StoredImage) -> bytes:
        data = read(self._objects, image.key)
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise Transient("storage_unavailable", f"{image.key} came with other bytes than were stored")
        return data

    def _tile(self, n: int, data: bytes, max_tiles: int, thumbnail: bool) -> Tiled:
        try:
            return self._sandbox.tile(data, max_tiles, thumbnail)
        except UndecodableImage as error:
            raise Permanent(error.code, f"image {n}: {error.reason}", image=n) from error
        except SandboxError as error:
            raise Transient("internal", f"image {n} could not be decoded on this worker", image=n) from error

    def _show(self, job: str, n: int, tiled: Tiled) -> None:
        try:
            self._objects.put(view_key(job, n), view(tiled), "image/png")
        except StorageDown as error:
            log.warning("view not stored", job=job, image=n, error=error.detail)


class Unseen(Images):
    """Takes pictures at their header's word: nothing is decoded and tiles have no content. For the queue alone."""

    def tile(self, held: Held, images: Sequence[StoredImage], data: Sequence[bytes], thumbnail: bool) -> list[Tiled]:
        """Return as many blank tiles as intake counted."""
        del held, data, thumbnail
        blank = np.uint8(0)
        return [
            Tiled(np.broadcast_to(blank, (image.tiles, TILE, TILE, 3)), image.grid, image.width, image.height)
            for image in images
        ]

    def show(self, job: str, tiled: Sequence[Tiled]) -> "list[Future[None]]":
        """There is nothing to see."""
        del job, tiled
        return []


def read(objects: ObjectStorage, key: str) -> bytes:
    """Return an object that must be there; whatever keeps it from us may pass."""
    try:
        return objects.get(key)
    except (ObjectMissing, StorageDown) as error:
        raise Transient("storage_unavailable", error.detail) from error


def view(tiled: Tiled) -> bytes:
    """Return a small PNG of the grid as the model sees it, the thumbnail to its right."""
    smaller = max(1, tiled.tiles.shape[1] // CELL)
    cells = [np.asarray(Image.fromarray(tile).reduce(smaller)) for tile in tiled.tiles]
    return draw(np.stack(cells), tiled.grid)
