"""Where webhooks may go, asked when one is registered; the courier asks again before every attempt."""

import asyncio
import time

from services.intake.auth import Doorkeeper
from shared.addresses import Target, check_url, refuse_unless_all_permitted, resolve
from shared.errors import WebhookRefused
from shared.settings import Settings

RESOLVED_WITHIN = 2.0  #: seconds; a name that does not resolve today may tomorrow
BELIEVED = 30.0  #: seconds for which a URL that passed is not looked up again
KEPT = 10_000


class Callbacks:
    """Judges webhook URLs."""

    def __init__(self, door: Doorkeeper, settings: Settings) -> None:
        self._door = door
        self._settings = settings
        self._passed: dict[tuple[str, bool], tuple[float, str]] = {}

    async def host(self, url: str) -> str:
        """Return the host and port that deliveries to `url` are counted by, or raise `WebhookRefused`."""
        keyless = await self._door.keyless()
        until, host = self._passed.get((url, keyless), (0.0, ""))
        if time.monotonic() >= until:
            target = check_url(url, self._settings, keyless)
            await asyncio.to_thread(self._refuse, target, keyless)
            if len(self._passed) >= KEPT:
                self._passed.clear()
            host = target.netloc
            self._passed[url, keyless] = (time.monotonic() + BELIEVED, host)
        return host

    def _refuse(self, target: Target, keyless: bool) -> None:
        try:
            addresses = resolve(target.host, target.port, RESOLVED_WITHIN)
        except WebhookRefused:
            return
        refuse_unless_all_permitted(target, addresses, self._settings, keyless)
