"""Images that a request of OpenAI's surface names become uploads, and their `detail` becomes tiles.

`low` is one tile, `high`, `auto` and `original` are the usual number of the model; `tileq.tiles` overrides both.
"""

from collections.abc import Sequence

from services.intake.openai.content import ImageReference
from services.intake.submission.compose import DEFAULT_TILES
from services.intake.submission.data_uri import read_data_uri
from services.intake.submission.image_url import is_url, read_image_url
from services.intake.submission.size_errors import too_many_images
from services.intake.uploads import FileReference, ImageSource
from shared.errors import RequestError
from shared.models import Model
from shared.settings.roles import IntakeSettings


def resolve(references: Sequence[ImageReference], settings: IntakeSettings) -> list[ImageSource]:
    """Return the bytes of each image, or the file or URL that has them. Raises `RequestError`.

    The one place that knows where images may come from.
    """
    if len(references) > settings.max_images:
        raise too_many_images(len(references), settings.max_images)
    return [_resolve(reference, n, settings) for n, reference in enumerate(references)]


def tiles_of(references: Sequence[ImageReference], model: Model) -> list[int] | None:
    """Return the most tiles of each image, None where all have the usual number."""
    if all(reference.detail != "low" for reference in references):
        return None
    least, most = model.tiles
    return [least if reference.detail == "low" else min(DEFAULT_TILES, most) for reference in references]


def _resolve(reference: ImageReference, n: int, settings: IntakeSettings) -> ImageSource:
    if reference.url is None:
        return FileReference(reference.field, reference.file_id or "")
    if is_url(reference.url):
        return read_image_url(reference.url, n, reference.field, settings)
    try:
        upload = read_data_uri(reference.url, n, settings.max_image_bytes)
    except RequestError as error:
        error.field = reference.field
        raise
    upload.name = reference.field
    return upload
