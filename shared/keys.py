"""API keys: `tq_…`, each of a tenant, stored as SHA-256 only (the secret has 160 random bits, so no salt is needed)."""

import hashlib
import re
import secrets
from dataclasses import dataclass

#: The one tenant of a service without keys.
KEYLESS = "local"
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class ApiKey:
    """The stored record of a key. Times are epoch seconds, 0 means never."""

    tenant: str
    name: str
    created: float
    expires: float = 0
    revoked: float = 0

    def live(self, now: float) -> bool:
        """Whether the key is accepted at `now`."""
        return not self.revoked and not (self.expires and self.expires <= now)


def new_key() -> str:
    """Return a fresh key: `tq_` and 160 random bits."""
    return "tq_" + secrets.token_hex(20)


def digest(key: str) -> str:
    """Return the hash under which a key is stored."""
    return hashlib.sha256(key.encode()).hexdigest()


def tenant_problem(tenant: str) -> str | None:
    """Say why `tenant` can't be a tenant's name, or None."""
    if _TENANT.fullmatch(tenant):
        return None
    return f"{tenant!r} is not a tenant name: 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit"
