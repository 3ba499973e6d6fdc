"""The audit line: one log event `audit` for every request that acts on secrets, deliveries or stored jobs.

It says who (tenant and key id), what (act), on what (target), how it ended (outcome) and in which request, and never
holds a secret. Refused requests are logged too. `services/cli/audit.py` writes the same line for acts on keys.
"""

import structlog
from starlette.requests import Request

#: Calls that are audited → act.
ACTS = {
    ("POST", "/v1/jobs/{id}/retry"): "job.retry",
    ("DELETE", "/v1/jobs/{id}"): "job.delete",
    ("DELETE", "/v1/responses/{id}"): "job.delete",
    ("DELETE", "/v1/files/{id}"): "file.delete",
    ("POST", "/v1/jobs/{id}/deliveries/{msg}/redeliver"): "delivery.redeliver",
    ("POST", "/v1/batches/{id}/cancel"): "batch.cancel",
    ("POST", "/v1/webhooks/test"): "webhook.test",
    ("POST", "/v1/webhooks/secret/rotate"): "webhook_secret.rotate",
    ("POST", "/v1/webhook_endpoints"): "webhook_endpoint.create",
    ("POST", "/v1/webhook_endpoints/{id}"): "webhook_endpoint.update",
    ("DELETE", "/v1/webhook_endpoints/{id}"): "webhook_endpoint.delete",
    ("POST", "/v1/webhook_endpoints/{id}/rotate_secret"): "webhook_endpoint.rotate_secret",
    ("POST", "/v1/webhook_endpoints/{id}/test"): "webhook_endpoint.test",
}
MAX_TARGET_CHARS = 200
log = structlog.get_logger(__name__)


def set_target(request: Request, target: str) -> None:
    """Name what `request` acts on, where its path does not."""
    request.state.audit_target = target


def audit(request: Request, route: str, status: int, code: str | None) -> None:
    """Log the audit line of a request that has been answered, if its call is audited."""
    act = ACTS.get((request.method, route))
    if act is None:
        return
    principal = getattr(request.state, "principal", None)
    named = getattr(request.state, "audit_target", "") or "/".join(map(str, request.scope["path_params"].values()))
    log.info(
        "audit",
        act=act,
        principal={"tenant": principal.tenant, "key": principal.key_id or None} if principal else None,
        target=(named or (principal.tenant if principal else ""))[:MAX_TARGET_CHARS],
        outcome=code or ("done" if status < 400 else str(status)),
    )
