"""Request headers that say how an answer is wanted: Idempotency-Key, Prefer, traceparent."""

import hashlib
import re

from fastapi import Request

from shared.errors import Malformed

LONGEST_WAIT = 60.0
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_WAIT = re.compile(r"""(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])""", re.IGNORECASE)


def idempotency_key(request: Request) -> str | None:
    """Return what the Idempotency-Key of `request` is stored under, or None. Raises `Malformed`."""
    sent = request.headers.getlist("idempotency-key")
    if not sent:
        return None
    key = sent[0]
    if len(key) > 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(sent) > 1 or not 1 <= len(key) <= 255 or not all("!" <= sign <= "~" for sign in key):
        raise Malformed("an Idempotency-Key is 1 to 255 visible ASCII characters, once", field="Idempotency-Key")
    return hashlib.sha256(key.encode()).hexdigest()


def preferred_wait(request: Request) -> float | None:
    """Return the seconds of `Prefer: wait=N`, at most `LONGEST_WAIT`, or None; what can't be read is no preference."""
    found = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return min(float(found[1]), LONGEST_WAIT) if found else None


def traceparent(request: Request) -> str:
    """Return the W3C trace context of `request`, or ""."""
    sent = request.headers.get("traceparent", "")
    return sent if _TRACEPARENT.fullmatch(sent) else ""
