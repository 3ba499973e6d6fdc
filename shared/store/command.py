"""A command to the job store: one Lua script of `shared/store/lua`, and so one atomic step.

A function that returns a `StoreCommand` names the script, its arguments, and how its reply is parsed. The synchronous
and the asynchronous client run the same commands (`shared/store/client.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
StoreArgument = str | int | float


@dataclass(frozen=True)
class StoreCommand(Generic[T]):
    """One atomic step: `script` of shared/store/lua with `args`; `parse` turns its reply into a `T`."""

    script: str
    args: tuple[StoreArgument, ...]
    parse: Callable[[Any], T]
    durable: bool = False  #: the reply is returned only after the write is on disk


@dataclass(frozen=True)
class TransitionResult(Generic[T]):
    """The result of a transition, and the ids of the webhook deliveries that became due by it."""

    value: T
    messages: tuple[str, ...] = ()
    #: Whether another job of the model may be ready, of a claim whether many are; False only if the store found none.
    more: bool = True
    waits: bool = False  #: whether the slot waits for another job from now on


def hash_to_dict(flat: Sequence[str]) -> dict[str, str]:
    """Parse HGETALL's flat list of names and values."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
