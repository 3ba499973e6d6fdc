"""Pictures as files in memory."""

import io
from typing import Any

from PIL import Image


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return `picture` as a file of `kind`."""
    written = io.BytesIO()
    picture.save(written, kind, **options)
    return written.getvalue()
