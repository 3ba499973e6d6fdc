"""Reads fields of a JSON file one by one, with the type asked for or one clear error."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.vision.checkpoint.errors import CheckpointError

_MISSING = object()


@dataclass(frozen=True)
class Fields:
    """An object of a JSON file, which knows where it stands there."""

    file: str
    values: dict[str, Any]
    at: str = ""

    def fail(self, name: str, problem: str) -> CheckpointError:
        """The error of field `name`."""
        return CheckpointError(f"{self.file}: {self.at}{name} {problem}")

    def inner(self, name: str) -> "Fields":
        """The object in field `name`."""
        return Fields(self.file, self._get(name, dict, "an object"), f"{self.at}{name}.")

    def integer(self, name: str, default: Any = _MISSING, least: int = 1) -> int:
        """A whole number of at least `least`."""
        value = self._get(name, int, "a whole number", default)
        if isinstance(value, bool) or value < least:
            raise self.fail(name, f"is {value!r}, not a whole number of at least {least}")
        return int(value)

    def number(self, name: str, default: Any = _MISSING) -> float:
        """A number above 0."""
        value = self._get(name, (int, float), "a number", default)
        if isinstance(value, bool) or not 0 < value < float("inf"):
            raise self.fail(name, f"is {value!r}, not a number above 0")
        return float(value)

    def flag(self, name: str, default: Any = _MISSING) -> bool:
        """True or false."""
        return bool(self._get(name, bool, "true or false", default))

    def text(self, name: str, default: Any = _MISSING) -> str:
        """A string."""
        return str(self._get(name, str, "a string", default))

    def one_of(self, name: str, choices: Sequence[Any], default: Any = _MISSING) -> Any:
        """One of `choices`."""
        value = self.values.get(name, default)
        if value is _MISSING:
            raise self.fail(name, "is missing")
        if value not in choices:
            raise self.fail(name, f"is {value!r}; supported: {', '.join(map(repr, choices))}")
        return value

    def only(self, name: str, expected: Any, default: Any = _MISSING) -> None:
        """Refuse any value but `expected`."""
        self.one_of(name, (expected,), default)

    def _get(self, name: str, kind: Any, what: str, default: Any = _MISSING) -> Any:
        value = self.values.get(name, default)
        if value is _MISSING:
            raise self.fail(name, f"is missing; {what} is needed")
        if not isinstance(value, kind):
            raise self.fail(name, f"is {value!r}, not {what}")
        return value
