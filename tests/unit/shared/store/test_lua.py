"""Each Lua script has one command, and only the prelude changes states and reads the clock."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest

from shared.errors import STORE_FAILURES
from shared.store import client
from shared.store.command import StoreCommand

STORE = Path(client.__file__).parent
SCRIPTS = sorted((STORE / "lua").glob("*.lua"))


def commands() -> Iterator[str]:
    """Yield the script that each `StoreCommand(…)` in the package names."""
    for path in STORE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == StoreCommand.__name__:
                yield ast.literal_eval(node.args[0])


def test_every_script_has_a_command_and_every_command_a_script() -> None:
    assert {path.stem for path in SCRIPTS} - {"prelude"} == set(commands())


@pytest.mark.parametrize("script", [path.stem for path in SCRIPTS if path.stem != "prelude"])
def test_every_script_compiles(script: str) -> None:
    assert fakeredis.FakeRedis(server_type="valkey").script_load(client.source(script))


def test_scripts_take_the_time_from_the_prelude_and_change_states_only_there() -> None:
    for path in SCRIPTS:
        text = path.read_text()
        if path.stem != "prelude":
            assert "'TIME'" not in text, path
            assert not re.search(r"HSET'.*'state', (?!'pending'|state)", text), path


@pytest.mark.parametrize("code", STORE_FAILURES)
def test_the_message_of_a_failure_stands_in_one_place(code: str) -> None:
    assert STORE_FAILURES[code] in client.source("claim")
    assert all(STORE_FAILURES[code] not in path.read_text() for path in SCRIPTS)
