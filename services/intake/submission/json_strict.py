"""JSON as RFC 8259 defines it, without anything that two parsers would read differently."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from shared.errors import Malformed

MAX_DIGITS = 300  #: of one number: float() takes 308, and int(), in quadratic time, some thousands
_BOM = "\ufeff"
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(body: bytes | str) -> Any:
    """Return the value of `body`. A byte order mark is skipped (RFC 8259, 8.1).

    Raises `Malformed` for everything else that is not plain JSON in UTF-8: duplicate keys, NaN, numbers out of range,
    unpaired surrogates, nesting that is too deep.
    """
    text = _decode(body).removeprefix(_BOM)
    if not text.strip():
        raise Malformed("the body is empty; send a JSON object")
    try:
        value = json.loads(
            text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int
        )
    except RecursionError as error:
        raise Malformed("the JSON is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise Malformed(f"the JSON can't be parsed: {error.msg} (character {error.pos})") from error
    if _SURROGATE_ESCAPE.search(text):
        _refuse_unpaired_surrogates(value)
    return value


def parse_object(body: bytes | str) -> dict[str, Any]:
    """Return the JSON object of `body`. Raises `Malformed`."""
    value = parse(body)
    if not isinstance(value, dict):
        raise Malformed("the JSON is not an object")
    return value


def _decode(body: bytes | str) -> str:
    try:
        return body if isinstance(body, str) else body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"the JSON is not UTF-8 (byte {error.start})") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        duplicate, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise Malformed(f"the JSON has the duplicate key {duplicate[:100]!r} in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise Malformed(f"the JSON has {name}, which is not a JSON number")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Malformed(f"the JSON has the number {text[:40]}, which is too large")
    return number


def _int(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise Malformed(f"the JSON has a number of {len(text)} digits; at most {MAX_DIGITS} are allowed")
    return int(text)


def _refuse_unpaired_surrogates(value: Any) -> None:
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise Malformed("the JSON has an unpaired surrogate escape") from error
        elif isinstance(one, Mapping):
            pending += [*one, *one.values()]
        elif isinstance(one, list):
            pending += one
