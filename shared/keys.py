"""API keys: `tq_…`, each of a tenant, stored as SHA-256 only (the secret has 160 random bits, so no salt is needed)."""

import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass
from typing import Any

from shared.calls import Call

#: The one tenant of a service without keys.
KEYLESS = "local"
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class ApiKey:
    """What is known of a key. Times are epoch seconds, 0 means never."""

    tenant: str
    name: str
    created: float
    expires: float = 0
    revoked: float = 0

    def live(self, now: float) -> bool:
        """Tell whether it opens the door at `now`."""
        return not self.revoked and not (self.expires and self.expires <= now)


def new_key() -> str:
    """Return a fresh key: `tq_` and 160 random bits."""
    return "tq_" + secrets.token_hex(20)


def digest(key: str) -> str:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def tenant_problem(tenant: str) -> str | None:
    """Say why `tenant` can't be a tenant's name, or None."""
    if _TENANT.fullmatch(tenant):
        return None
    return f"{tenant!r} is not a tenant name: 1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit"


def put(hashed: str, key: ApiKey) -> Call[int]:
    """Store or change a key under its digest."""
    return Call("key_put", (hashed, json.dumps(asdict(key))), int, durable=True)


def get(hashed: str) -> Call[tuple[ApiKey | None, int, float]]:
    """The key of this digest or None, how many keys there are, and the store's time."""

    def read(answer: Any) -> tuple[ApiKey | None, int, float]:
        return (ApiKey(**json.loads(answer[0])) if answer[0] else None), int(answer[1]), float(answer[2])

    return Call("key_get", (hashed,), read)


def listing() -> Call[dict[str, ApiKey]]:
    """All keys by digest."""
    return Call(
        "key_list",
        (),
        lambda flat: {hashed: ApiKey(**json.loads(text)) for hashed, text in zip(flat[::2], flat[1::2], strict=True)},
    )
