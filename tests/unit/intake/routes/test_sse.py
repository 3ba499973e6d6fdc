"""Server-sent events."""

import pytest

from services.intake.event_stream import Ended, KeepAlive, Reset, TextAppended
from services.intake.routes.sse import SseEncoder, parse_event_id
from shared.ids import new_id
from shared.jobs import Job
from shared.views import job_body


def test_events_are_numbered_and_the_last_one_is_marked() -> None:
    encoder = SseEncoder()
    assert encoder.encode(Reset("5-0")) == b"event: reset\nid: 5-0/1\ndata: {}\n\n"
    assert encoder.encode(KeepAlive()) == b": keep-alive\n\n"
    assert encoder.encode(TextAppended("6-1", "a\nb")) == b'event: delta\nid: 6-1/2\ndata: {"text":"a\\nb"}\n\n'
    end = Ended("6-1", job_body(Job(id=new_id("job"), tenant="acme", model="m", created=1.0)))
    assert b"event: end\nid: 6-1/3-end\n" in encoder.encode(end)


@pytest.mark.parametrize(
    ("id", "parsed"),
    [
        ("5-0/1", ("5-0", False)),
        ("5-0/12-end", ("5-0", True)),
        *(
            (id, ("", False))
            for id in ("", "x", "1-1", "1-1/x", "-/1", "1-1/1-END", "1-1/1-end\n", f"{2**64}-0/1", f"0-{2**64}/1")
        ),
        (f"{2**64 - 1}-{2**64 - 1}/1", (f"{2**64 - 1}-{2**64 - 1}", False)),
    ],
)
def test_ids_are_parsed_back(id: str, parsed: tuple[str, bool]) -> None:
    assert parse_event_id(id) == parsed
