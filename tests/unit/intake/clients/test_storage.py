"""What intake's storage client asks of the object storage."""

import asyncio
import hashlib
from typing import Any

from services.intake.clients.object_puts import ObjectPuts
from services.intake.clients.storage import Storage
from services.intake.uploads import Upload
from shared.requests import StoredImage
from shared.settings.roles import Settings
from shared.storage import MemoryStorage


class Recorded(MemoryStorage):
    """Keeps the digests that came with objects."""

    def __init__(self) -> None:
        super().__init__()
        self.digests: list[str] = []

    def put(self, key: str, data: Any, media_type: str, size: int | None = None, sha256: str = "") -> None:
        self.digests.append(sha256)
        super().put(key, data, media_type, size, sha256)


def test_an_upload_is_stored_with_the_digest_that_was_computed_as_it_arrived() -> None:
    objects = Recorded()
    storage = Storage(objects, ObjectPuts(Settings(), connections=1))
    upload = Upload.of("image", b"data")
    image = StoredImage(
        key="k",
        media_type="image/png",
        bytes=4,
        width=1,
        height=1,
        sha256=upload.sha256,
        max_tiles=1,
        grid=(1, 1),
        tiles=1,
    )
    asyncio.run(storage.put_image(image, upload))
    asyncio.run(storage.close())
    assert objects.digests == [hashlib.sha256(b"data").hexdigest()]
    assert objects.get("k") == b"data"
