"""A question to the job store: one Lua script of `shared/lua`, and so one atomic step.

A function that returns a `Call` says which script, with which arguments, and how to read its answer. The synchronous
and the asynchronous store run the same calls (`shared/store.py`), so nothing is written twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Word = str | int | float


@dataclass(frozen=True)
class Call(Generic[T]):
    """One atomic step: `script` of shared/lua with `args`, its answer turned into a `T` by `read`."""

    script: str
    args: tuple[Word, ...]
    read: Callable[[Any], T]
    durable: bool = False  #: the answer counts only once it is on disk


@dataclass(frozen=True)
class Moved(Generic[T]):
    """What a transition did, and the webhook messages that became due by it."""

    value: T
    messages: tuple[str, ...] = ()


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Read the flat list of names and values that a hash is answered as."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
