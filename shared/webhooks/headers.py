"""Headers that a client adds to its webhooks, such as a token for the gateway in front of its receiver.

The values are secrets: they are stored with the job, encrypted where there is a key (`shared/encryption.py`), and sent,
and neither shown by the API nor logged.
"""

import re
from collections.abc import Mapping

from shared.encryption import MARKER

MAX_HEADERS = 16
MAX_NAME_CHARS = 100
MAX_VALUE_CHARS = 2048

#: A token (RFC 9110, 5.6.2), and a field value without white space around it (5.5).
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\t\x20-\x7e]*[\x21-\x7e])?")
#: Set by tileq, or about the connection (RFC 9110, 7.6.1) and the body.
_RESERVED = frozenset(
    {"connection", "expect", "host", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
    | {"traceparent", "user-agent"}
)
_RESERVED_PREFIXES = ("content-", "proxy-", "webhook-")


def headers_problem(headers: Mapping[str, str]) -> str | None:
    """Return why `headers` can't be sent, or None. The text holds names and never values."""
    if len(headers) > MAX_HEADERS:
        return f"{len(headers)} headers; at most {MAX_HEADERS} allowed"
    if len({name.lower() for name in headers}) < len(headers):
        return "two names differ in case only"
    return next((problem for name, value in headers.items() if (problem := _problem(name, value))), None)


def redacted(text: str, headers: Mapping[str, str]) -> str:
    """Return `text` without the values of `headers`: a receiver may echo the request."""
    for value in sorted(headers.values(), key=len, reverse=True):
        text = text.replace(value, "[redacted]")
    return text


def _problem(name: str, value: str) -> str | None:
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        return f"the name {ascii(name)[:MAX_NAME_CHARS]} is not a header name of at most {MAX_NAME_CHARS} characters"
    if name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES):
        return f"the header {name} is set by tileq or belongs to the connection; leave it out"
    if len(value) > MAX_VALUE_CHARS:
        return f"the value of {name} is longer than {MAX_VALUE_CHARS} characters"
    if value.startswith(MARKER):
        return f"the value of {name} begins with {MARKER}, which marks encrypted values; send it in plain"
    if not _VALUE.fullmatch(value):
        return f"the value of {name} must be visible ASCII, without white space at its ends"
    return None
