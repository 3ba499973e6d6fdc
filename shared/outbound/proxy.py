"""The URL of an egress proxy, read once: `http://[user:password@]host:port`."""

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class ProxyEndpoint:
    """An HTTP proxy that is asked with CONNECT."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)  #: value of Proxy-Authorization, "" for none


def parse_proxy_url(url: str) -> ProxyEndpoint:
    """Return the parts of a proxy's URL. Raises `ValueError`, whose text holds nothing of the URL."""
    try:
        parts, port = urlsplit(url), urlsplit(url).port
    except ValueError:
        raise ValueError("is not a URL; write http://proxy.example:3128") from None
    if parts.scheme != "http":
        raise ValueError("must begin with http://; what goes through the tunnel is encrypted all the same")
    if not parts.hostname or port is None:
        raise ValueError("must name host and port, as http://proxy.example:3128")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("must end after the port")
    if parts.username is None:
        return ProxyEndpoint(parts.hostname, port)
    credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return ProxyEndpoint(parts.hostname, port, f"Basic {base64.b64encode(credentials.encode()).decode('ascii')}")
