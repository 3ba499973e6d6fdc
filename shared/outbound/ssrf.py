"""SSRF protection for the URLs of webhooks and images: resolves and checks addresses, opens no connection.

    target = check_url(url, policy)                         what the text says: scheme, host, port, path
    addresses = resolve(target, policy, timeout)            one look-up; what it found is what is called
    refuse_unless_all_permitted(target, addresses, policy)

The address decides, never the string: `getaddrinfo` reads 127.1, 2130706433 and full-width digits as 127.0.0.1. The
client connects to exactly these addresses and resolves nothing again, at registration and at every attempt.
"""

import queue
import re
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpx
import structlog

from shared.errors import RequestError
from shared.settings.values import Network

Address = IPv4Address | IPv6Address
Lookup = Callable[..., Sequence[tuple[Any, ...]]]  #: shaped like socket.getaddrinfo

MAX_URL_CHARACTERS = 2048

#: Not public although `is_global` says so in one of Python 3.11 to 3.13, and the private ones again, to depend on none.
_DENIED = tuple(
    ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's WireServer
        "2001::/23",  # Teredo, ORCHID and other protocol assignments
        "2001:db8::/32",
        "2002::/16",  # 6to4, which wraps any IPv4 address
        "3fff::/20",
    )
)
#: NAT64's well-known prefix (RFC 6052): the IPv4 address in the last 32 bits is the one that is called.
NAT64 = ip_network("64:ff9b::/96")
#: All of IPv6 that is public so far. Not ::/96 (IPv4-compatible), 5f00::/16, fc00::/7, fec0::/10, multicast.
_GLOBAL_V6 = ip_network("2000::/3")

#: Services above 1023 that answer to text or do harm when written to; only where the policy names no ports.
_DENIED_PORTS = frozenset(
    {1433, 1521, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4369, 5060, 5432, 5672, 5900, 5984, 5985, 6000, 6379}
    | {6443, 6667, 8500, 9042, 9092, 9200, 9300, 10250, 10255, 11211, 15672, 26379, 27017}
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]")

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class UrlPolicy:
    """Which URLs of one kind may be called, and the words and the error of a refusal."""

    noun: str  #: `webhook`, `image`
    variable: str  #: the beginning of the names of its settings, `TILEQ_WEBHOOK`
    refused: type[RequestError]
    credentials: str  #: advice to who writes a user name or password into a URL
    shows_url: bool  #: whether a refusal repeats the URL
    allow: tuple[Network, ...] = ()  #: networks that may be called although not public
    http: bool = False  #: whether http:// may reach public addresses
    ports: tuple[int, ...] = ()  #: empty: the usual ones

    def refusal(self, url: str, why: str) -> RequestError:
        """Return the refusal of `url` by its text."""
        return self.refused(
            f"the {self.noun} URL {_shown(url)} {why}" if self.shows_url else f"the {self.noun} URL {why}"
        )

    def refusal_of_host(self, host: str) -> RequestError:
        """Return the refusal of a host by its addresses, or for want of any."""
        return self.refused(
            f"the {self.noun} host {_shown(host)} does not resolve to addresses that tileq may call; every one must be "
            f"public or lie in a network of {self.variable}_ALLOW"
        )


@dataclass(frozen=True)
class Target:
    """A URL taken apart by the parser that will also send it. `host` is ASCII, IPv6 without brackets."""

    scheme: str
    host: str
    port: int
    path: str  #: with the query

    @property
    def netloc(self) -> str:
        """Host and port, the port always written: what deliveries to one receiver are counted by."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL as it is called."""
        return f"{self.scheme}://{self.netloc}{self.path}"


def check_url(url: str, policy: UrlPolicy) -> Target:
    """Return the parts of a URL, or raise `policy.refused` with what is wrong in its text.

    An http:// URL passes where some network is allowed; its addresses must then all lie there.
    """
    parsed = _parse(url, policy)
    if parsed.scheme != "https" and not (parsed.scheme == "http" and (policy.http or policy.allow)):
        raise policy.refusal(
            url,
            f"must begin with https://; http:// is for networks that {policy.variable}_ALLOW lists, or for all with "
            f"{policy.variable}_HTTP=true",
        )
    if parsed.userinfo:
        raise policy.refusal(url, f"holds a user name or password; {policy.credentials}")
    if parsed.fragment:
        raise policy.refusal(url, "has a fragment (#…), which HTTP does not send")
    host = parsed.raw_host.decode("ascii").lower()
    if (problem := _host_problem(host)) is not None:
        raise policy.refusal(url, problem)
    port = parsed.port if parsed.port is not None else {"http": 80, "https": 443}[parsed.scheme]
    if not _port_allowed(port, policy.ports):
        raise policy.refusal(
            url,
            f"names port {port}, which {policy.noun} URLs may not use; take 443, or name every port that they may use "
            f"in {policy.variable}_PORTS",
        )
    target = Target(parsed.scheme, host, port, parsed.raw_path.decode("ascii"))
    if len(target.url) > MAX_URL_CHARACTERS:
        raise policy.refusal(url, f"is longer than {MAX_URL_CHARACTERS} characters once encoded")
    return target


def permitted(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether `address` may be called: it is public, or one of `networks` has it."""
    address = embedded_ipv4(address)
    if is_listed(address, networks):
        return True
    if isinstance(address, IPv6Address) and address not in _GLOBAL_V6:
        return False
    return address.is_global and not address.is_multicast and not is_listed(address, _DENIED)


def resolve(target: Target, policy: UrlPolicy, timeout: float, lookup: Lookup | None = None) -> list[Address]:
    """Return the addresses of a host from one look-up of at most `timeout` seconds, or raise `policy.refused`.

    The refusal is `retryable` where the resolver itself failed, which tells nothing of the name.

    An address in its usual form is its own answer; only `getaddrinfo` reads the other forms.
    """
    with suppress(ValueError):
        return [ip_address(target.host)]
    answers: queue.SimpleQueue[list[Address] | Exception] = queue.SimpleQueue()
    ask = lookup or socket.getaddrinfo

    def look() -> None:
        try:
            found = ask(target.host, target.port, type=socket.SOCK_STREAM)
            answers.put(list(dict.fromkeys(ip_address(info[4][0]) for info in found)))
        except (OSError, ValueError) as error:  # ValueError: a name that is no name, and its UnicodeError
            answers.put(error)

    # getaddrinfo has no time-out; an abandoned thread ends when the resolver's own time-out does.
    threading.Thread(target=look, name="resolve", daemon=True).start()
    try:
        answer = answers.get(timeout=max(timeout, 0))
    except queue.Empty:
        answer = TimeoutError(f"no answer within {timeout:.1f} s")
    if isinstance(answer, Exception) or not answer:
        log.info("host not resolved", kind=policy.noun, host=target.host, error=str(answer))
        refusal = policy.refusal_of_host(target.host)
        refusal.retryable = isinstance(answer, TimeoutError) or getattr(answer, "errno", 0) == socket.EAI_AGAIN
        raise refusal
    return answer


def refuse_unless_all_permitted(target: Target, addresses: Sequence[Address], policy: UrlPolicy) -> None:
    """Raise `policy.refused` unless every one of `addresses` may be called; one bad one among good ones is an attack.

    For an address that is not public the message equals that of a name that does not resolve, so that refusals do not
    map the network.
    """
    for address in addresses:
        refusal = _refusal(target, address, policy)
        if refusal is not None:
            log.info("address refused", kind=policy.noun, host=target.host, address=str(address), scheme=target.scheme)
            raise refusal


def embedded_ipv4(address: Address) -> Address:
    """Return the IPv4 address inside ::ffff:0:0/96 or NAT64's 64:ff9b::/96, any other address as it is."""
    if isinstance(address, IPv6Address) and address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address


def _refusal(target: Target, address: Address, policy: UrlPolicy) -> RequestError | None:
    judged = embedded_ipv4(address)
    if is_listed(judged, policy.allow):
        return None
    if not permitted(judged, policy.allow):
        return policy.refusal_of_host(target.host)
    host = f"the {policy.noun} host {_shown(target.host)}"
    if _is_ours(address) or _is_ours(judged):
        return policy.refused(
            f"{host} resolves to {judged}, this machine's own address; to call it, list "
            f"{judged}/{judged.max_prefixlen} in {policy.variable}_ALLOW"
        )
    if target.scheme == "http" and not policy.http:
        return policy.refused(
            f"{host} is public and is called by https:// only; use https://, or set {policy.variable}_HTTP=true"
        )
    return None


def _parse(url: str, policy: UrlPolicy) -> httpx.URL:
    if len(url) > MAX_URL_CHARACTERS:
        raise policy.refusal(url, f"is longer than {MAX_URL_CHARACTERS} characters")
    if _UNPRINTABLE.search(url):
        raise policy.refusal(url, "holds spaces or control characters; percent-encode them")
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise policy.refusal(
            url, f"is not a URL: {_shown(str(error))}" if policy.shows_url else "can't be parsed"
        ) from error


def _host_problem(host: str) -> str | None:
    if not host:
        return "names no host"
    if ":" in host:
        return "holds an IPv6 zone" if "%" in host else None  # httpx has read the rest as an address
    if host.endswith("."):
        return "has a dot at the end of its host; leave it out"
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        return "does not name a host"
    return None


def _port_allowed(port: int, ports: Sequence[int]) -> bool:
    if ports:
        return port in ports
    return port in (80, 443) or (1024 <= port <= 65535 and port not in _DENIED_PORTS)


def is_listed(address: Address, networks: Sequence[Network]) -> bool:
    """Return whether one of `networks` holds `address`, or the IPv4 address inside it."""
    judged = embedded_ipv4(address)
    return any(judged in network for network in networks)


def _is_ours(address: Address) -> bool:
    """Return whether this machine has `address`: behind its own firewall it would reach what others can't."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _shown(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 120 else f"{shown[:120]}…"
