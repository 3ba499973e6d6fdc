"""Which image URLs may be fetched."""

from shared.errors import ImageUrlRefused
from shared.outbound.ssrf import UrlPolicy
from shared.settings.images import ImageUrlSettings


def image_url_policy(settings: ImageUrlSettings) -> UrlPolicy:
    """Return the policy of the settings. A refusal repeats no URL: its query may hold a signature."""
    return UrlPolicy(
        noun="image",
        variable="TILEQ_IMAGE_URL",
        refused=ImageUrlRefused,
        credentials="nothing is sent but the URL",
        shows_url=False,
        allow=settings.image_url_allow,
        http=settings.image_url_http,
        ports=settings.image_url_ports,
    )
