"""Images as files in memory."""

import io
from typing import Any

from PIL import Image


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return `image` as a file of `kind`."""
    written = io.BytesIO()
    image.save(written, kind, **options)
    return written.getvalue()
