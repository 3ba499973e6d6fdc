"""Which messages of the broker are hints."""

import base64
import json
from typing import Any

import pytest

from shared.connections.hint_envelope import envelope_problem

QUEUE = "vision.m"


def body(*parts: Any) -> str:
    return base64.b64encode(json.dumps(parts).encode()).decode()


EMBEDDED = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
#: As Celery 5.7 and kombu 5.7 write it.
HINT: dict[str, Any] = {
    "body": body(["job_x"], {}, EMBEDDED),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {
        **{"lang": "py", "task": "tileq.look", "id": "77e2300a", "root_id": "77e2300a", "parent_id": None},
        **dict.fromkeys(("shadow", "eta", "expires", "group", "group_index", "ignore_result", "stamped_headers")),
        **{"retries": 0, "timelimit": [None, None], "argsrepr": "('job_x',)", "kwargsrepr": "{}", "stamps": {}},
        **{"origin": "gen1@vm", "replaced_task_nesting": 0},
    },
    "properties": {
        **{"correlation_id": "77e2300a", "reply_to": "c666e6bd", "delivery_mode": 2, "priority": 0},
        **{"body_encoding": "base64", "delivery_tag": "e5b2b69e"},
        "delivery_info": {"exchange": "", "routing_key": QUEUE},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """A hint with another value at `path`."""
    copy: dict[str, Any] = json.loads(json.dumps(HINT))
    *parents, name = path.split("/")
    place = copy
    for parent in parents:
        place = place[parent]
    place[name] = value
    return copy


def wrong(path: str, *values: Any) -> list[tuple[str, Any]]:
    return [(path, value) for value in values]


def test_a_hint_is_one_also_with_fields_of_a_later_celery() -> None:
    assert envelope_problem(HINT, QUEUE) == ""
    assert envelope_problem(changed("headers/new", {"a": 1}), QUEUE) == ""


@pytest.mark.parametrize("message", [None, 1, "x", [], {}, [HINT], {"body": "x", "headers": {}}], ids=repr)
def test_json_that_is_no_message_is_no_hint(message: Any) -> None:
    assert envelope_problem(message, QUEUE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *wrong("body", None, "", "!!!", "e30=", "W10=", "x" * 5000, body(), body(1, 2, 3)),
        *wrong(
            "body",
            *(body(args, {}, EMBEDDED) for args in ([], ["a", "b"], [1], [None], [{"id": 1}], "a", ["a" * 9000])),
        ),
        ("body", body(["a"], {"id": "b"}, EMBEDDED)),
        *wrong("body", *(body(["a"], {}, embedded) for embedded in (None, [1], EMBEDDED | {"chain": [{"task": "x"}]}))),
        ("body", base64.b64encode(b"\xff").decode()),
        ("body", base64.b64encode(b"[" * 3000).decode()),
        *wrong("content-type", None, "application/x-python-serialize", ["application/json"]),
        *wrong("content-encoding", None, "bogus", "binary"),
        *wrong("headers", None, [], "x", {}),
        *wrong("headers/task", None, 1, {}, "x" * 5000),
        *wrong("headers/id", None, 1, {"a": 1}),
        *wrong("headers/eta", "garbage", "9999-12-31T23:59:59+00:00", 1),
        *wrong("headers/expires", "1970", 0),
        *wrong("headers/retries", "1", None, []),
        *wrong("headers/timelimit", "x", [1, 2], [None] * 3),
        *wrong("headers/stamps", 1, {"a": 1}),
        ("headers/stamped_headers", 5),
        ("headers/compression", "application/x-gzip"),
        *wrong("properties", None, [], {}),
        *wrong("properties/delivery_tag", None, 1, []),
        *wrong("properties/delivery_info", None, {}, {"exchange": "x", "routing_key": QUEUE}),
        ("properties/delivery_info/routing_key", "another"),
        *wrong("properties/body_encoding", None, "rot13"),
        *wrong("properties/priority", "high", []),
    ],
    ids=repr,
)
def test_a_message_that_is_wrong_in_one_place_is_no_hint(path: str, value: Any) -> None:
    problem = envelope_problem(changed(path, value), QUEUE)
    assert problem
    assert len(problem) < 200
