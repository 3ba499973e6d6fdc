"""API keys: `tq_…`, each of a tenant, stored as SHA-256 only (the secret has 160 random bits, so no salt is needed)."""

import hashlib
import json
import re
import secrets
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Self

from shared.jobs import Priority

#: The one tenant of a service without keys.
KEYLESS = "local"
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class Scope(StrEnum):
    """What a key may do. A key that names no scope may do everything."""

    READ = "read"  #: Read jobs, batches, files, images, results, deliveries and models.
    SUBMIT = "submit"  #: Submit jobs and batches, upload files.
    CANCEL = "cancel"  #: Cancel jobs and batches, and delete ended jobs and files.
    MANAGE = "manage"  #: Rotate the webhook secret, test a webhook, deliver a message again.


@dataclass(frozen=True)
class ApiKey:
    """The stored record of a key. Times are epoch seconds, 0 means never."""

    tenant: str
    name: str
    created: float
    expires: float = 0
    revoked: float = 0
    scopes: tuple[str, ...] = ()  #: names of `Scope`; none: every right
    max_priority: Priority | None = None  #: highest priority of its jobs; None: as the settings say

    @property
    def rights(self) -> frozenset[Scope]:
        """The scopes that the key has; names of a newer version give no right to anything here."""
        if not self.scopes:
            return frozenset(Scope)
        return frozenset(scope for scope in Scope if scope.value in self.scopes)

    def to_json(self) -> str:
        """Return the stored form; what is added and not set is left out, so that earlier versions read it."""
        added = ("scopes", "max_priority")
        return json.dumps({name: value for name, value in asdict(self).items() if value or name not in added})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the stored form; unknown fields (of a newer version) are ignored."""
        record: dict[str, Any] = json.loads(text)
        known = {field.name: record[field.name] for field in fields(cls) if field.name in record}
        return cls(**known | {"scopes": tuple(known.get("scopes", ()))})

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
