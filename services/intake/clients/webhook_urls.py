"""Which webhook URLs are accepted. The webhook worker checks again before every attempt."""

import asyncio
from collections.abc import Awaitable, Callable

from services.intake.ttl_cache import TtlCache
from shared.errors import WebhookRefused
from shared.outbound.ssrf import Target, UrlPolicy, check_url, refuse_unless_all_permitted, resolve
from shared.settings.roles import IntakeSettings
from shared.webhooks.url_policy import webhook_policy

RESOLVE_TIMEOUT_S = 2.0  #: a name that does not resolve today may resolve tomorrow
CACHE_TTL_S = 30.0  #: for which a URL that was accepted is not resolved again


class WebhookUrlPolicy:
    """Judges webhook URLs; `has_no_keys` tells whether the service has none, which permits loopback."""

    def __init__(self, has_no_keys: Callable[[], Awaitable[bool]], settings: IntakeSettings) -> None:
        self._has_no_keys = has_no_keys
        self._settings = settings
        self._accepted: TtlCache[tuple[str, bool], str] = TtlCache(CACHE_TTL_S)

    async def host(self, url: str, field: str = "url") -> str:
        """Return the host and port that deliveries to `url` are counted by.

        Raises `WebhookRefused`, which names `field`, the place of the URL in the request.
        """
        keyless = await self._has_no_keys()
        try:
            return await self._accepted.load((url, keyless), lambda: self._check(url, keyless))
        except WebhookRefused as refused:
            refused.field = field
            raise

    async def _check(self, url: str, keyless: bool) -> str:
        policy = webhook_policy(self._settings, keyless)
        target = check_url(url, policy)
        await asyncio.to_thread(_refuse, target, policy)
        return target.netloc


def _refuse(target: Target, policy: UrlPolicy) -> None:
    try:
        addresses = resolve(target, policy, RESOLVE_TIMEOUT_S)
    except WebhookRefused:
        return
    refuse_unless_all_permitted(target, addresses, policy)
