"""The scripts and the calls belong together."""

import re
from pathlib import Path

from shared import store

SHARED = Path(store.__file__).parent


def test_every_script_has_a_call_and_every_call_a_script() -> None:
    scripts = {path.stem for path in (SHARED / "lua").glob("*.lua")} - {"prelude"}
    sources = "".join(path.read_text() for path in SHARED.glob("*.py"))
    called = set(re.findall(r"Call\(\s*\"(\w+)\"", sources))
    assert scripts == called


def test_time_is_the_servers_and_states_move_in_one_place() -> None:
    for path in (SHARED / "lua").glob("*.lua"):
        text = path.read_text()
        if path.stem != "prelude":
            assert "'TIME'" not in text, path
            assert not re.search(r"HSET'.*'state', (?!'pending'|state)", text), path
