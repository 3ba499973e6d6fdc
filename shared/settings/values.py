"""Values that several groups read: lists, networks, files of authorities, proxies."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import Field, SecretStr
from pydantic_settings import NoDecode

from shared.connections.s3_endpoint import check_ca_file
from shared.outbound.proxy import ProxyEndpoint, parse_proxy_url

Network = IPv4Network | IPv6Network
Port = Annotated[int, Field(ge=1, le=65535)]
Commas = NoDecode  # lists come as "a,b", not as JSON


def split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def networks(value: object) -> object:
    return tuple(ip_network(part) for part in split(value)) if isinstance(value, str) else value


def usable_ca_file(value: str) -> str:
    if value:
        check_ca_file(value)
    return value


def readable_proxy(value: SecretStr) -> SecretStr:
    proxy_endpoint(value)
    return value


def proxy_endpoint(value: SecretStr) -> ProxyEndpoint | None:
    url = value.get_secret_value()
    return parse_proxy_url(url) if url else None
