"""Images by URL: judged by their text here, resolved and fetched by a worker."""

import re

from services.intake.uploads import ImageUrl
from shared.errors import ImageUrlRefused, ImageUrlsDisabled
from shared.image_urls import image_url_policy
from shared.outbound.ssrf import check_url
from shared.settings.roles import IntakeSettings

_URL = re.compile(r"\s*[a-z][a-z0-9+.-]*://", re.ASCII | re.IGNORECASE)


def is_url(text: str) -> bool:
    """Tell whether `text` is a URL, of any scheme, that would have to be fetched; a data URI is none."""
    return _URL.match(text) is not None


def read_image_url(url: str, image: int, field: str, settings: IntakeSettings) -> ImageUrl:
    """Return image number `image` of its job. Raises `ImageUrlsDisabled` or `ImageUrlRefused`, which name `field`."""
    if not settings.image_urls:
        raise ImageUrlsDisabled(image=image, field=field)
    try:
        check_url(url, image_url_policy(settings))
    except ImageUrlRefused as error:
        raise ImageUrlRefused(f"image {image}: {error.detail}", image=image, field=field) from None
    return ImageUrl(field, url)
