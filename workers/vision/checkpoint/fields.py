"""Reads fields of a JSON file one by one, each with the type asked for, or fails with one clear error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_MISSING = object()


class CheckpointError(Exception):
    """The checkpoint can't be served; the message names the file and the field, and the remedy where there is one."""


@dataclass(frozen=True)
class Fields:
    """An object of a JSON file, with its place there. Every method raises `CheckpointError` naming file and field."""

    file: str
    values: dict[str, Any]
    prefix: str = ""  #: dotted path of the object, "" or ending in a dot

    def error(self, name: str, problem: str) -> CheckpointError:
        """Return the error of field `name`."""
        return CheckpointError(f"{self.file}: {self.prefix}{name} {problem}")

    def inner(self, name: str) -> "Fields":
        """Return the object in field `name`."""
        return Fields(self.file, self._get(name, dict, "an object"), f"{self.prefix}{name}.")

    def integer(self, name: str, default: Any = _MISSING, least: int = 1) -> int:
        """Return a whole number of at least `least`."""
        value = self._get(name, int, "a whole number", default)
        if isinstance(value, bool) or value < least:
            raise self.error(name, f"is {value!r}, not a whole number of at least {least}")
        return int(value)

    def number(self, name: str, default: Any = _MISSING) -> float:
        """Return a number above 0."""
        value = self._get(name, (int, float), "a number", default)
        if isinstance(value, bool) or not 0 < value < float("inf"):
            raise self.error(name, f"is {value!r}, not a number above 0")
        return float(value)

    def flag(self, name: str, default: Any = _MISSING) -> bool:
        """Return true or false."""
        return bool(self._get(name, bool, "true or false", default))

    def text(self, name: str, default: Any = _MISSING) -> str:
        """Return a string."""
        return str(self._get(name, str, "a string", default))

    def one_of(self, name: str, choices: Sequence[Any], default: Any = _MISSING) -> Any:
        """Return one of `choices`."""
        value = self.values.get(name, default)
        if value is _MISSING:
            raise self.error(name, "is missing")
        if value not in choices:
            raise self.error(name, f"is {value!r}; supported: {', '.join(map(repr, choices))}")
        return value

    def only(self, name: str, expected: Any, default: Any = _MISSING) -> None:
        """Refuse any value but `expected`."""
        self.one_of(name, (expected,), default)

    def _get(self, name: str, kind: Any, noun: str, default: Any = _MISSING) -> Any:
        value = self.values.get(name, default)
        if value is _MISSING:
            raise self.error(name, f"is missing; {noun} is needed")
        if not isinstance(value, kind):
            raise self.error(name, f"is {value!r}, not {noun}")
        return value
