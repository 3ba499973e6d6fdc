"""JSON as RFC 8259 has it, and nothing that two readers would read differently."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, NoReturn

from shared.errors import Malformed

_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_MOST_DIGITS = 400  # of one number; above some thousands int() refuses, and until then it takes quadratic time


def parse(body: bytes) -> Any:
    """Return the value of `body`. Raises `Malformed` for all else: duplicate keys, NaN, 1e999, half surrogates, a BOM,
    other encodings, nesting without end."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(f"the JSON is not UTF-8 (byte {error.start})") from error
    if not text.strip():
        raise Malformed("the body is empty; send a JSON object")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError as error:
        raise Malformed("the JSON is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise Malformed(f"the JSON can't be read: {error.msg} (character {error.pos})") from error
    if _SURROGATE.search(body):
        _refuse_half_surrogates(value)
    return value


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of `body`, or raise `Malformed`."""
    value = parse(body)
    if not isinstance(value, dict):
        raise Malformed("the JSON is not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise Malformed(f"the JSON has the key {twice[:100]!r} twice in one object")
    return found


def _constant(name: str) -> NoReturn:
    raise Malformed(f"the JSON has {name}, which is no JSON number")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise Malformed(f"the JSON has the number {text[:40]}, which is too large")
    return number


def _int(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise Malformed(f"the JSON has a number of {len(text)} digits")
    return int(text)


def _refuse_half_surrogates(value: Any) -> None:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            try:
                one.encode()
            except UnicodeEncodeError as error:
                raise Malformed("the JSON has half of a surrogate pair, which is no character") from error
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one
