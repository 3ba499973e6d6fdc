"""Types of values that several settings hold; each is read and checked the same way wherever it stands."""

from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from shared.connections.s3_endpoint import check_ca_file
from shared.outbound.proxy import ProxyEndpoint, parse_proxy_url

Network = IPv4Network | IPv6Network
T = TypeVar("T")


def proxy_endpoint(url: SecretStr) -> ProxyEndpoint | None:
    """Return the egress proxy at `url`, or None where that is empty. Raises `ValueError` for what is no proxy's URL."""
    return parse_proxy_url(url.get_secret_value()) if url.get_secret_value() else None


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _networks(value: object) -> object:
    return tuple(map(ip_network, _split(value))) if isinstance(value, str) else value


def checked(check: Callable[[T], object], *, or_empty: bool = False) -> AfterValidator:
    """Return a validator that keeps a value as it is where `check` raises nothing; "" too with `or_empty`."""

    def keep(value: T) -> T:
        if value or not or_empty:
            check(value)
        return value

    return AfterValidator(keep)


_COMMAS = (NoDecode, BeforeValidator(_split))  # lists come as "a,b", not as JSON

Words = Annotated[tuple[str, ...], *_COMMAS]
Waits = Annotated[tuple[Annotated[float, Field(ge=0)], ...], *_COMMAS]
Ports = Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], *_COMMAS]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)]
CaFile = Annotated[str, checked(check_ca_file, or_empty=True)]  #: path of a PEM file, or ""
ProxyUrl = Annotated[SecretStr, checked(proxy_endpoint)]  #: URL of an egress proxy, or ""
