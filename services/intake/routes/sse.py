"""Events as server-sent events."""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from services.intake.event_stream import Ended, Event, KeepAlive, Reset, StateChanged, TextAppended
from services.intake.rendering import to_json

RETRY = b"retry: 2000\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
MAX_ID_NUMBER = 2**64 - 1  #: of either half of the id of a stream entry
_EVENT_ID = re.compile(r"(\d{1,20}-\d{1,20})/\d{1,20}(-end)?")
_NAMES: dict[type[Any], str] = {StateChanged: "state", TextAppended: "delta", Reset: "reset", Ended: "end"}

#: One server-sent event, for the OpenAPI document.
EVENT_SCHEMA = {
    "type": "object",
    "properties": {
        "event": {"enum": list(_NAMES.values())},
        "id": {"type": "string", "description": "for `Last-Event-ID`"},
        "data": {"type": "string", "description": 'JSON: a job, or `{"text": "…"}`, or `{}`'},
        "retry": {"type": "integer"},
    },
}


def parse_event_id(id: str) -> tuple[str, bool]:
    """Return the position that an event id names, "" for one that is none of ours, and whether it is the end's."""
    found = _EVENT_ID.fullmatch(id)
    # A number beyond 64 bits would fail the one read that serves every stream.
    if found is None or any(int(number) > MAX_ID_NUMBER for number in found[1].split("-")):
        return "", False
    return found[1], found[2] is not None


class SseEncoder:
    """Encodes the events of one stream; ids are `{position}/{number}`, and `-end` marks the last one."""

    def __init__(self) -> None:
        self._number = 0

    def encode(self, event: Event) -> bytes:
        """Return one event as it is sent."""
        if isinstance(event, KeepAlive):
            return KEEP_ALIVE
        self._number += 1
        id = f"{event.position}/{self._number}{'-end' if isinstance(event, Ended) else ''}"
        return b"event: %s\nid: %s\ndata: %s\n\n" % (_NAMES[type(event)].encode(), id.encode(), _data(event))


async def encoded(events: AsyncGenerator[Event, None]) -> AsyncIterator[bytes]:
    """Yield the bytes of a whole stream."""
    encoder = SseEncoder()
    yield RETRY
    async with aclosing(events) as opened:
        async for event in opened:
            yield encoder.encode(event)


def _data(event: StateChanged | TextAppended | Reset | Ended) -> bytes:
    if isinstance(event, Reset):
        return b"{}"
    return to_json({"text": event.text} if isinstance(event, TextAppended) else event.job)
