"""The caller of a request: which tenant, by which key, with which rights and limits."""

from dataclasses import dataclass

from shared.errors import InsufficientScope
from shared.jobs import Priority
from shared.keys import Scope
from shared.limits import TenantLimits


@dataclass(frozen=True)
class PrincipalLimits:
    """What one caller may use."""

    max_queued: int  #: queued jobs of the service above which a submission is refused
    tenant: TenantLimits  #: of all callers of the tenant together
    max_priority: Priority = "high"  #: of its jobs


@dataclass(frozen=True)
class Principal:
    """An authenticated caller."""

    tenant: str
    limits: PrincipalLimits
    key_id: str = ""  #: beginning of the key's SHA-256; "" on a service without keys
    scopes: frozenset[Scope] = frozenset(Scope)

    def require(self, scope: Scope) -> None:
        """Raise `InsufficientScope` unless the caller has `scope`."""
        if scope not in self.scopes:
            raise InsufficientScope(scope.value)
