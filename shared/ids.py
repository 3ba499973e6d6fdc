"""Ids: `job_…`, `batch_…`, `msg_…`, sortable by time, without dots, with 130 random bits that cannot be guessed."""

import hashlib
import re
import secrets
import time

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: sorts as it counts
_TIME, _RANDOM = 10, 26  # characters of 5 bits: 50 bits of milliseconds, 130 random ones
_UNIQUE = rf"[{_DIGITS}]{{{_TIME + _RANDOM}}}"
_SHAPE = re.compile(rf"[a-z]+_{_UNIQUE}")


def new_id(kind: str) -> str:
    """Return a fresh id of `kind`: ``job_`` and 36 characters, the first ten of them the time in milliseconds."""
    return f"{kind}_{_base32(time.time_ns() // 1_000_000, _TIME)}{_base32(secrets.randbits(5 * _RANDOM), _RANDOM)}"


def derived_id(kind: str, parent: str, number: int) -> str:
    """Return the id of the `number`-th of `kind` that `parent` has, the same in every process.

    It has the time of `parent` and sorts by `number` (below 2**20). The other 110 bits are of the SHA-256 of `parent`,
    so only who knows the id of `parent` can guess it.
    """
    time, secret = parent.partition("_")[2][:_TIME], hashlib.sha256(parent.encode()).digest()
    return f"{kind}_{time}{_base32(number, 4)}{_base32(int.from_bytes(secret), _RANDOM - 4)}"


def id_of(kind: str, *names: str) -> str:
    """Return the id of the one of `kind` that `names` stand for: 180 bits of their SHA-256, and no time."""
    number = int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest())
    return f"{kind}_{_base32(number % (1 << 5 * (_TIME + _RANDOM)), _TIME + _RANDOM)}"


def is_id(kind: str, text: str) -> bool:
    """Tell whether `text` has the shape of an id of `kind`; nothing else may become part of a key."""
    return text.startswith(kind + "_") and _SHAPE.fullmatch(text) is not None


def created_at(id: str) -> float:
    """Return when `id` was created, in seconds since the epoch."""
    number = 0
    for character in id.partition("_")[2][:_TIME]:
        number = 32 * number + _DIGITS.index(character)
    return number / 1000


def is_message_id(text: str) -> bool:
    """Tell whether `text` has the shape of a webhook id: `msg_…`, then `_{event}`, `_{endpoint}` or none."""
    return re.fullmatch(rf"msg_{_UNIQUE}(_[a-z]+(_{_UNIQUE})?)?", text) is not None


def _base32(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 32)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
