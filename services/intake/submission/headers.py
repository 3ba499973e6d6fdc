"""Request headers that change how a request is processed or answered, read in one place."""

import hashlib
import re

from fastapi import Request

from services.intake.submission.model import RequestHeaders
from shared.errors import Malformed

MAX_WAIT_S = 60.0
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_WAIT = re.compile(r"""(?:^|,)\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])""", re.IGNORECASE)

_QUOTED_LIST = re.compile(r'"[^",]*,[^"]*"')  #: a quoted value with a comma: the preferences in it are none


def read_headers(request: Request) -> RequestHeaders:
    """Return what the headers of `request` ask for. Raises `Malformed`."""
    return RequestHeaders(_idempotency_key(request), _wait(request), _traceparent(request))


def refuse_idempotency_key(request: Request) -> None:
    """Raise `Malformed` where an Idempotency-Key is sent to a call that can't honour it."""
    if _idempotency_key(request) is not None:
        detail = f"{request.method} {request.scope['route'].path} does not support Idempotency-Key; leave it out"
        raise Malformed(detail, field="Idempotency-Key")


def _idempotency_key(request: Request) -> str | None:
    for name in request.headers:
        if "idempoten" in name and name != "idempotency-key":
            title = name[:100].title()
            raise Malformed(f"{title} is not supported; send Idempotency-Key", field=title)
    sent = request.headers.getlist("idempotency-key")
    if not sent:
        return None
    key = sent[0]
    if len(key) >= 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(sent) > 1 or not 1 <= len(key) <= 255 or not all("!" <= character <= "~" for character in key):
        detail = "an Idempotency-Key must be sent once and be 1 to 255 visible ASCII characters"
        raise Malformed(detail, field="Idempotency-Key")
    return hashlib.sha256(key.encode()).hexdigest()


def _wait(request: Request) -> float | None:
    """Return the wait that is preferred; what can't be read is no preference (RFC 7240)."""
    preferences = _QUOTED_LIST.sub('""', ",".join(request.headers.getlist("prefer")))
    found = _WAIT.search(preferences)
    return min(float(found[1]), MAX_WAIT_S) if found else None


def _traceparent(request: Request) -> str:
    sent = request.headers.get("traceparent", "")
    return sent if _TRACEPARENT.fullmatch(sent) else ""
