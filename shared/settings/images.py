"""Settings of images, sent or named by URL."""

from typing import Literal

from pydantic import Field, SecretStr

from shared.outbound.proxy import ProxyEndpoint
from shared.settings.base import ProcessSettings
from shared.settings.values import CaFile, Networks, Ports, ProxyUrl, proxy_endpoint


class ImageSettings(ProcessSettings):
    """What an image may be, and how it is shown to the model; intake and the worker apply the same values."""

    max_image_bytes: int = Field(20 << 20, ge=1, description="one image as sent")
    max_image_pixels: int = Field(50_000_000, ge=1, description="width x height of one image, from its header")
    max_image_side: int = Field(32_768, ge=1, description="longest side of one image, pixels")
    max_missing_rows: float = Field(
        0.1, ge=0, le=1, description="share of rows that a truncated image may lack; it gets a `warning`; 0: refused"
    )
    image_mode: Literal["natural", "original"] = Field(
        "natural", description="`natural`: as a viewer shows it; `original`: as the model card's code decodes it"
    )


class ImageUrlSettings(ProcessSettings):
    """Images that requests name by URL: intake judges the text, vision workers fetch them."""

    image_urls: bool = Field(False, description="let requests name images by URL; vision workers need a way out then")
    image_url_allow: Networks = Field(
        (), description="networks (CIDR, commas) from which images may be fetched although not public"
    )
    image_url_http: bool = Field(False, description="also fetch images by http:// from public addresses")
    image_url_ports: Ports = Field((), description="ports an image URL may name; empty: as for webhooks")
    image_url_ca_file: CaFile = Field(
        "", description="PEM of private authorities trusted for image URLs, beside the public ones"
    )
    image_url_proxy: ProxyUrl = Field(
        SecretStr(""),
        description="egress proxy for image URLs, as webhook_proxy is for webhooks",
    )
    image_url_timeout: float = Field(
        20, gt=0, description="an attempt waits this long for all its images by URL together, redirects included"
    )
    image_url_concurrency: int = Field(8, ge=1, description="images that one vision worker fetches by URL at once")

    @property
    def image_url_proxy_endpoint(self) -> ProxyEndpoint | None:
        """The egress proxy of image URLs, where there is one."""
        return proxy_endpoint(self.image_url_proxy)
