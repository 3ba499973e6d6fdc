"""Images by URL: judged by their text here, resolved and fetched by a worker."""

from services.intake.uploads import ImageUrl
from shared.errors import ImageUrlRefused, ImageUrlsDisabled
from shared.image_urls import image_url_policy
from shared.outbound.ssrf import check_url
from shared.settings.roles import IntakeSettings


def is_url(text: str) -> bool:
    """Tell whether `text` names an image by URL, not as a data URI."""
    return text.lower().startswith(("http://", "https://"))


def read_image_url(url: str, image: int, field: str, settings: IntakeSettings) -> ImageUrl:
    """Return image number `image` of its job. Raises `ImageUrlsDisabled` or `ImageUrlRefused`, which name `field`."""
    if not settings.image_urls:
        raise ImageUrlsDisabled(image=image, field=field)
    try:
        check_url(url, image_url_policy(settings))
    except ImageUrlRefused as error:
        raise ImageUrlRefused(f"image {image}: {error.detail}", image=image, field=field) from None
    return ImageUrl(field, url)
