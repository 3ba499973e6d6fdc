"""Types of values that several settings hold; each is read and checked the same way wherever it stands."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from shared.connections.s3_endpoint import check_ca_file
from shared.outbound.proxy import ProxyEndpoint, parse_proxy_url

Network = IPv4Network | IPv6Network


def proxy_endpoint(url: SecretStr) -> ProxyEndpoint | None:
    """Return the egress proxy at `url`, or None where that is empty. Raises `ValueError` for what is no proxy's URL."""
    return parse_proxy_url(url.get_secret_value()) if url.get_secret_value() else None


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _networks(value: object) -> object:
    return tuple(map(ip_network, _split(value))) if isinstance(value, str) else value


def _usable_ca_file(value: str) -> str:
    if value:
        check_ca_file(value)
    return value


def _readable_proxy(value: SecretStr) -> SecretStr:
    proxy_endpoint(value)
    return value


_COMMAS = (NoDecode, BeforeValidator(_split))  # lists come as "a,b", not as JSON

Words = Annotated[tuple[str, ...], *_COMMAS]
Waits = Annotated[tuple[Annotated[float, Field(ge=0)], ...], *_COMMAS]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], *_COMMAS]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
CaFile = Annotated[str, AfterValidator(_usable_ca_file)]  #: path of a PEM file, or ""
ProxyUrl = Annotated[SecretStr, AfterValidator(_readable_proxy)]  #: URL of an egress proxy, or ""
