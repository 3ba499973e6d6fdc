"""Who asks: a tenant by its key, or without any keys whoever sits at this machine.

keys exist            the key of `Authorization: Bearer tq_…` decides, everywhere
none exist            loopback clients only, with a loopback `Host` (a name rebound to 127.0.0.1 does not pass), from no
                      foreign page (`Origin`), and not through a proxy
the store is down     nobody: 503
"""

import hmac
import time
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

from services.intake.desk import Desk
from shared.errors import InvalidKey, MissingKey
from shared.keys import KEYLESS, digest, tenant_problem
from shared.settings import Settings
from shared.store import keys

MOST_CHARACTERS = 200  #: of a key; ours have 43
KEPT = 10_000  #: looked-up keys kept in memory
_PROXIED = ("forwarded", "x-forwarded-for", "x-real-ip")


class Doorkeeper:
    """Looks keys up and believes what it found for `key_cache` seconds."""

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self._desk = desk
        self._kept_for = settings.key_cache
        self._fixed = dict(fixed_key(entry) for entry in settings.api_keys)
        self._found: dict[str, tuple[float, str | None]] = {}
        self._keyless: tuple[float, bool] = (0.0, False)

    async def admit(self, request: Request) -> str:
        """Return the tenant of `request`, or raise `MissingKey` or `InvalidKey`."""
        sent = request.headers.getlist("authorization")
        if len(sent) > 1:
            raise InvalidKey("two Authorization headers were sent; send one")
        if sent:
            return await self._tenant(_bearer(sent[0]))
        if await self.keyless():
            self._local_only(request)
            return KEYLESS
        raise MissingKey

    async def keyless(self) -> bool:
        """Tell whether this service has no keys at all."""
        if self._fixed:
            return False
        until, known = self._keyless
        if time.monotonic() >= until:
            _, count, _ = await self._desk.run(keys.get(""))
            known = count == 0
            self._keyless = (time.monotonic() + self._kept_for, known)
        return known

    async def _tenant(self, key: str) -> str:
        hashed = digest(key)
        for known, tenant in self._fixed.items():
            if hmac.compare_digest(known, hashed):
                return tenant
        until, found = self._found.get(hashed, (0.0, None))
        if time.monotonic() >= until:
            found = await self._look_up(hashed)
        if found is None:
            raise InvalidKey
        return found

    async def _look_up(self, hashed: str) -> str | None:
        key, _, now = await self._desk.run(keys.get(hashed))
        tenant = key.tenant if key and key.live(now) else None
        if len(self._found) >= KEPT:
            self._found.clear()
        self._found[hashed] = (time.monotonic() + self._kept_for, tenant)
        return tenant

    def _local_only(self, request: Request) -> None:
        why = _not_local(request)
        if why:
            detail = f"this service has no API keys and so serves this machine alone, but {why}"
            raise MissingKey(f"{detail}; `tileq keys create` makes a key")


def fixed_key(entry: str) -> tuple[str, str]:
    """Return (digest, tenant) of `tenant=tq_…`. Raises `ValueError` that does not repeat the key."""
    tenant, separator, key = entry.partition("=")
    problem = tenant_problem(tenant)
    if not separator or problem or not key.startswith("tq_"):
        raise ValueError(f"an entry of TILEQ_API_KEYS is not `tenant=tq_…`{': ' + problem if problem else ''}")
    return digest(key), tenant


def is_loopback(host: str) -> bool:
    """Tell whether `host`, a name or address without port, is this machine as itself."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _not_local(request: Request) -> str | None:
    client = request.client.host if request.client else ""
    if not is_loopback(client):
        return f"the request comes from {client or 'somewhere unknown'}"
    host = _host_of(f"//{request.headers.get('host', '')}")
    if not is_loopback(host):
        return f"it names the host {host[:100]!r}"
    origin = request.headers.get("origin")
    if origin is not None and not is_loopback(_host_of(origin)):
        return f"a page of {origin[:100]!r} sent it"
    if any(name in request.headers for name in _PROXIED):
        return "it came through a proxy"
    return None


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that hold no address
        return ""


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise InvalidKey("the Authorization header is not `Bearer tq_…`")
    if len(key) > MOST_CHARACTERS or not key.isascii():
        raise InvalidKey
    return key
