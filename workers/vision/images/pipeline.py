"""The images of a job: fetched, tiled in the decoder pool, and stored as the model sees them.

Everything runs in a thread pool, so that the images of one job go side by side, and the job's own thread stays free to
notice that the attempt is to be aborted.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import structlog
from prometheus_client import Counter

from shared.errors import ObjectMissing, Permanent, StorageDown, Transient
from shared.records import JobImage
from shared.request_archive import read_images
from shared.requests import StoredImage
from shared.storage import ObjectStorage, view_key
from shared.tiling import TILE
from workers.vision.attempt import Attempt
from workers.vision.images.abortable_map import Abortable, abortable_map
from workers.vision.images.decode import DecodeError
from workers.vision.images.decoder_pool import DecoderUnavailable, TiledImage
from workers.vision.images.preview import preview

log = structlog.get_logger(__name__)
TILES = Counter("tileq_vision_tiles_total", "Tiles cut, thumbnails included")


class ImageTiler(Protocol):
    """Decodes and tiles one image at a time, from many threads."""

    def tile(self, image: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        """Return the tiles of `image`. Raises `DecodeError`, which is permanent, or `DecoderUnavailable`."""


class ImagePipeline:
    """Fetches, tiles and shows images. `threads` bounds what goes side by side, over all jobs."""

    def __init__(self, storage: ObjectStorage, decoders: ImageTiler, threads: int) -> None:
        self._storage = storage
        self._decoders = decoders
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")

    def fetch(self, attempt: Abortable, images: Sequence[StoredImage]) -> list[bytes]:
        """Return the bytes of `images` as they were submitted. Raises `Transient` and `StorageDown`."""
        try:
            data = read_images(
                lambda keys: abortable_map(self._pool, attempt, self._storage.get, keys), [one.key for one in images]
            )
        except MemoryError as error:
            size = sum(image.bytes for image in images)
            raise Transient("out_of_memory", f"no memory on this worker for images of {size} bytes") from error
        except ObjectMissing as error:
            raise Transient("storage_unavailable", error.detail) from error
        except ValueError as error:
            raise Transient("storage_unavailable", f"the images can't be read: {error}") from error
        for image, content in zip(images, data, strict=True):
            if hashlib.sha256(content).hexdigest() != image.sha256:
                raise Transient("storage_unavailable", f"{image.key} came with other bytes than were stored")
        return data

    def tile(
        self, attempt: Abortable, images: Sequence[StoredImage], data: Sequence[bytes], thumbnail: bool
    ) -> list[TiledImage]:
        """Cut `data` into as many tiles as `images` allow. Raises `Permanent` and `Transient` naming the image."""

        def tile_one(numbered: tuple[int, StoredImage, bytes]) -> TiledImage:
            n, image, content = numbered
            return self._tile(n, content, image.max_tiles, thumbnail)

        tiled = abortable_map(self._pool, attempt, tile_one, list(zip(range(len(images)), images, data, strict=True)))
        TILES.inc(sum(len(image.tiles) for image in tiled))
        return tiled

    def store_previews(self, job: str, images: Sequence[TiledImage]) -> "list[Future[None]]":
        """Begin to store what the model sees of each image; the job does not depend on it."""
        return [self._pool.submit(self._store_preview, job, n, image) for n, image in enumerate(images)]

    def close(self) -> None:
        """End the threads; work that has not begun is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _tile(self, n: int, data: bytes, max_tiles: int, thumbnail: bool) -> TiledImage:
        try:
            return self._decoders.tile(data, max_tiles, thumbnail)
        except DecodeError as error:
            raise Permanent(error.code, f"image {n}: {error.reason}", image=n) from error
        except DecoderUnavailable as error:
            message = f"image {n} could not be decoded on this worker: {error.reason}"
            raise Transient(error.code, message, image=n) from error

    def _store_preview(self, job: str, n: int, image: TiledImage) -> None:
        try:
            self._storage.put(view_key(job, n), preview(image), "image/png")
        except (StorageDown, MemoryError) as error:
            log.warning("preview not stored", job=job, image=n, error=str(error) or "out of memory")


class HeaderOnlyImages(ImagePipeline):
    """Believes the sizes that intake read from the headers and decodes nothing, to measure the queue alone."""

    def tile(
        self, attempt: Abortable, images: Sequence[StoredImage], data: Sequence[bytes], thumbnail: bool
    ) -> list[TiledImage]:
        """Return as many blank tiles as intake counted."""
        del attempt, data, thumbnail
        blank = np.uint8(0)
        return [
            TiledImage(np.broadcast_to(blank, (image.tiles, TILE, TILE, 3)), image.grid, image.width, image.height)
            for image in images
        ]

    def store_previews(self, job: str, images: Sequence[TiledImage]) -> "list[Future[None]]":
        """Store nothing."""
        del job, images
        return []


def note_decoded(attempt: Attempt, tiled: Sequence[TiledImage]) -> None:
    """Add to the job's record what decoding told of its images: warnings, and the sizes of those that had none."""
    for n, (seen, image) in enumerate(zip(attempt.images, tiled, strict=False)):
        if image.warning:
            log.warning("image decoded with a warning", image=n, warning=image.warning)
        if seen.width is None:
            size = {"width": image.width, "height": image.height, "grid": [*image.grid], "tiles": len(image.tiles)}
            attempt.note_image(n, JobImage.model_validate(size | {"warning": image.warning}))
        elif image.warning:
            attempt.note_image(n, JobImage(warning=image.warning))
