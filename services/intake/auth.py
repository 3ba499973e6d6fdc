"""Authentication: a request becomes a `Principal`.

keys exist            `Authorization: Bearer tq_…` decides, from every address
no keys exist         loopback clients only, with a loopback `Host` (a name rebound to 127.0.0.1 does not pass), without
                      a foreign `Origin`, and not through a proxy
the store is down     every request is refused: 503
"""

import hmac
from dataclasses import replace
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import Request

from services.intake.principal import Principal, PrincipalLimits
from services.intake.ttl_cache import TtlCache
from shared.errors import InvalidKey, MissingKey
from shared.keys import KEYLESS, ApiKey, digest, tenant_problem
from shared.limits import TenantLimits
from shared.settings.roles import IntakeSettings
from shared.store import keys, limits
from shared.store.client import AsyncStore

MAX_KEY_CHARACTERS = 200  #: ours have 43
KEY_ID_CHARACTERS = 12  #: of the key's hash, as `tileq keys list` shows
_PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")


class Authenticator:
    """Looks keys up; an answer of the store is believed for `key_cache` seconds."""

    def __init__(self, store: AsyncStore, settings: IntakeSettings) -> None:
        self._store = store
        self._max_queued, self._default_limits = settings.max_queued, settings.tenant_limits
        self._max_priority = settings.max_priority
        self._limits: TtlCache[str, TenantLimits] = TtlCache(settings.key_cache)
        self._fixed = dict(fixed_key(entry) for entry in settings.api_keys)
        self._keys: TtlCache[str, ApiKey | None] = TtlCache(settings.key_cache)
        self._key_count: TtlCache[None, int] = TtlCache(settings.key_cache, 1)

    async def authenticate(self, request: Request) -> Principal:
        """Return who sends `request`. Raises `MissingKey` or `InvalidKey`, or `QueueUnavailable`."""
        sent = request.headers.getlist("authorization")
        if len(sent) > 1:
            raise InvalidKey("two Authorization headers were sent; send one")
        if sent and not (_is_placeholder(sent[0]) and await self.has_no_keys()):
            return await self._by_key(sent[0])
        if await self.has_no_keys():
            _refuse_unless_local(request)
            return Principal(KEYLESS, await self.limits_of(KEYLESS))
        raise MissingKey

    async def has_no_keys(self) -> bool:
        """Tell whether this service has no keys at all."""
        return not self._fixed and await self._key_count.load(None, self._count_keys) == 0

    async def _by_key(self, header: str) -> Principal:
        try:
            hashed = digest(_bearer(header))
            key = self._fixed_key(hashed) or await self._keys.load(hashed, lambda: self._find_key(hashed))
            if key is None:
                raise InvalidKey
        except InvalidKey as error:
            if await self.has_no_keys():
                raise InvalidKey("this service has no API keys; leave the Authorization header out") from error
            raise
        limits = replace(await self.limits_of(key.tenant), max_priority=key.max_priority or self._max_priority)
        return Principal(key.tenant, limits, hashed[:KEY_ID_CHARACTERS], key.rights)

    async def limits_of(self, tenant: str) -> PrincipalLimits:
        """Return what all callers of `tenant` may use."""
        found = await self._limits.load(tenant, lambda: self._find_limits(tenant))
        return PrincipalLimits(self._max_queued, found)

    async def _find_limits(self, tenant: str) -> TenantLimits:
        override, _ = await self._store.run(limits.get(tenant))
        return self._default_limits.overridden(override)

    def _fixed_key(self, hashed: str) -> ApiKey | None:
        found = (tenant for known, tenant in self._fixed.items() if hmac.compare_digest(known, hashed))
        return next((ApiKey(tenant, "TILEQ_API_KEYS", 0) for tenant in found), None)

    async def _find_key(self, hashed: str) -> ApiKey | None:
        key, now = await self._store.run(keys.get(hashed))
        return key if key and key.live(now) else None

    async def _count_keys(self) -> int:
        return await self._store.run(keys.count_keys())


def fixed_key(entry: str) -> tuple[str, str]:
    """Return (digest, tenant) of `tenant=tq_…`. Raises `ValueError`, which does not repeat the key."""
    tenant, separator, key = entry.partition("=")
    problem = tenant_problem(tenant)
    if not separator or problem or not key.startswith("tq_"):
        raise ValueError(f"an entry of TILEQ_API_KEYS is not `tenant=tq_…`{': ' + problem if problem else ''}")
    return digest(key), tenant


@lru_cache(1000)
def is_loopback(host: str) -> bool:
    """Tell whether `host`, a name or address without port, is this machine's loopback interface."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _refuse_unless_local(request: Request) -> None:
    if reason := why_not_local(request):
        detail = f"this service has no API keys and therefore serves this machine only, but {reason}"
        raise MissingKey(f"{detail}; `tileq keys create` makes a key")


def why_not_local(request: Request) -> str | None:
    """Return why `request` does not count as sent by this machine, or None where it does."""
    client = request.client.host if request.client else ""
    if not is_loopback(client):
        return f"the request comes from {client or 'an unknown address'}"
    host = _host_of(f"//{request.headers.get('host', '')}")
    if not is_loopback(host):
        return f"its Host header names {host[:100]!r}"
    origin = request.headers.get("origin")
    if origin is not None and not is_loopback(_host_of(origin)):
        return f"its Origin header names {origin[:100]!r}"
    if any(name in request.headers for name in _PROXY_HEADERS):
        return "it came through a proxy"
    return None


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets that hold no address
        return ""


def _is_placeholder(header: str) -> bool:
    """Tell whether `header` names no key of tileq's: for want of one, clients send `EMPTY`, `sk-…` or the like."""
    scheme, _, key = header.partition(" ")
    return scheme.lower() == "bearer" and not key.strip().startswith("tq_")


def _bearer(header: str) -> str:
    scheme, _, key = header.partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key:
        raise InvalidKey("the Authorization header is not `Bearer tq_…`")
    if len(key) > MAX_KEY_CHARACTERS or not key.isascii():
        raise InvalidKey
    return key
