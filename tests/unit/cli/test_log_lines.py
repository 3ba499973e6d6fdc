"""Log lines as a person reads them."""

import json

import pytest

from services.cli.local.log_lines import readable


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        ({"event": "request", "level": "info"}, ""),
        (
            {"event": "worker can't start", "level": "critical", "error": "no such folder"},
            "worker can't start: no such folder",
        ),
        (
            {"event": "crashed", "level": "error", "exception": "Traceback\n  line\nKeyError: 'a'"},
            "crashed: KeyError: 'a'",
        ),
        ({"event": "health check failed", "level": "warning", "error": None}, "health check failed"),
    ],
)
def test_a_structured_line_is_told_in_short_from_warnings_on(entry: dict[str, object], shown: str) -> None:
    assert readable(json.dumps({"process": "vision", "timestamp": "2026-11-25T18:05:23Z", **entry})) == shown


@pytest.mark.parametrize(
    "line", ["I1125 filer.go:181 LockRing", "[1, 2]", '{"level": "info"}', "TILEQ_HOST is reachable"]
)
def test_any_other_line_stays_as_it_is(line: str) -> None:
    assert readable(line) == line
