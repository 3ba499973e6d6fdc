"""The scripts and the calls belong together."""

import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union

import fakeredis
import pytest

import shared
from shared.store import client
from shared.store.command import StoreCommand

SCRIPTS = sorted(path.stem for path in (Path(client.__file__).parent / "lua").glob("*.lua") if path.stem != "prelude")


def test_every_script_is_called_by_a_function_and_every_function_calls_a_script() -> None:
    called = {call.script for call in map(made, functions())}
    assert called == set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_compiles(script: str) -> None:
    assert fakeredis.FakeRedis(server_type="valkey").script_load(client.source(script))


def test_time_is_the_servers_and_states_move_in_one_place() -> None:
    for script in SCRIPTS:
        text = (Path(client.__file__).parent / "lua" / f"{script}.lua").read_text()
        assert "'TIME'" not in text, script
        assert not re.search(r"HSET'.*'state', (?!'pending'|state)", text), script


def functions() -> Iterator[Callable[..., StoreCommand[Any]]]:
    """Every public function of `shared` that returns a call."""
    for info in pkgutil.walk_packages(shared.__path__, "shared."):
        module = importlib.import_module(info.name)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == info.name and not name.startswith("_"):
                returned = typing.get_type_hints(function).get("return")
                if typing.get_origin(returned) is StoreCommand or returned is StoreCommand:
                    yield function


def made(function: Callable[..., StoreCommand[Any]]) -> StoreCommand[Any]:
    """The call that `function` returns for some arguments."""
    return function(**required(function, typing.get_type_hints(function)))


def required(of: Callable[..., Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """Values for the parameters of `of` that have no default."""
    parameters = inspect.signature(of).parameters.values()
    return {p.name: some(hints[p.name]) for p in parameters if p.default is p.empty}


def some(kind: Any) -> Any:
    """A value of type `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return args[0]
    if origin in (Union, types.UnionType):
        return some(args[0])
    if origin in (Sequence, Mapping):
        return {Sequence: [], Mapping: {}}[origin]
    if origin is tuple:
        return tuple(some(arg) for arg in args)
    if hasattr(kind, "__dataclass_fields__"):
        return kind(**required(kind, typing.get_type_hints(kind)))
    return next(iter(kind)) if issubclass(kind, Enum) else kind(1)
