"""Standard Webhooks 1.0 (standardwebhooks.com): the body that is sent, and how it is signed.

webhook-id: msg_…           fixed per job and event, the same for every attempt
webhook-timestamp: …        seconds since the epoch, of this attempt
webhook-signature: v1,…     one per active secret, over "{id}.{timestamp}.{body}"
"""

import base64
import json
import secrets as random_secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from standardwebhooks import Webhook

_THIN = ("id", "object", "state", "status", "metadata", "expires_at")


def new_secret() -> str:
    """Return a fresh `whsec_…` of 32 random bytes."""
    return "whsec_" + base64.b64encode(random_secrets.token_bytes(32)).decode()


def secret_problem(secret: str) -> str | None:
    """Return why `secret` is not valid (`whsec_` and base64 of 24 to 64 bytes), or None."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except ValueError:
        return "is not base64 after whsec_"
    return None if 24 <= len(key) <= 64 else f"holds {len(key)} bytes, not 24 to 64"


def headers(msg: str, body: str, secrets: Sequence[str], now: float) -> dict[str, str]:
    """Return the three headers for `body`, signed by every secret in `secrets`, at `now` (epoch seconds)."""
    moment = datetime.fromtimestamp(int(now), UTC)
    return {
        "webhook-id": msg,
        "webhook-timestamp": str(int(now)),
        "webhook-signature": " ".join(Webhook(secret).sign(msg, moment, body) for secret in secrets),
    }


def body(envelope: Mapping[str, Any], data: Mapping[str, Any], payload: str, limit: int) -> str:
    """Return the JSON to send, `envelope` with `data`, full or thin; above `limit` bytes full becomes `truncated`."""
    if payload == "full":
        whole = _dump({**envelope, "data": data})
        if len(whole.encode()) <= limit:
            return whole
        return _dump({**envelope, "data": _thin(data) | {"truncated": True}})
    return _dump({**envelope, "data": _thin(data)})


def _thin(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in _THIN if name in data}


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
