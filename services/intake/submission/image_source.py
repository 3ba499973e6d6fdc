"""An image as a native request names it: a data URI, a file, a URL, or a part of the form."""

from collections.abc import Mapping
from typing import Any

from services.intake.submission.data_uri import read_data_uri
from services.intake.submission.image_url import is_url, read_image_url
from services.intake.uploads import FileReference, ImageSource, Upload
from shared.errors import InvalidField
from shared.settings.roles import IntakeSettings


def read_image(image: Any, n: int, settings: IntakeSettings, parts: Mapping[str, Upload] | None = None) -> ImageSource:
    """Return image `n` of a job; `parts` are those that a job of a batch may name. Raises `RequestError`."""
    field = f"images.{n}"
    match image:
        case {"file_id": str(file_id), **others} if not others:
            return FileReference(field, file_id)
        case {"url": str(url), **others} if not others:
            return read_image_url(url, n, field, settings)
        case {"part": str(name), **others} if parts is not None and not others:
            if name in parts:
                return parts[name]
            raise InvalidField(f"image {n} names the part {name[:80]!r}, which was not sent", field=field, image=n)
        case dict():
            part = "" if parts is None else ', {"part": "name"}'
            known = f'a data URI, {{"file_id": "file_…"}}{part} or {{"url": "https://…"}}'
            raise InvalidField(f"image {n} must be {known}", field=field, image=n)
        case str() if is_url(image):
            read_image_url(image, n, field, settings)  # raises where the object would be refused as well
            raise InvalidField(f'image {n} is a URL; name it as {{"url": "https://…"}}', field=field, image=n)
    return read_data_uri(image, n, settings.max_image_bytes)
