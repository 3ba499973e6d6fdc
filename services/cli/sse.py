"""Server-sent events, as https://html.spec.whatwg.org/multipage/server-sent-events.html parses them.

httpx's `iter_lines` also splits at U+2028, U+0085 and other signs that JSON carries unescaped; event streams don't.
"""

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One event as it was sent."""

    name: str
    data: str
    id: str  #: the latest id sent so far, what `Last-Event-ID` takes


def parse(chunks: Iterable[bytes], last_id: str = "") -> Iterator[Event]:
    """Yield the events of a stream; one that the stream broke off is left out."""
    name, data = "", list[str]()
    for line in _lines(chunks):
        if not line:
            if data:
                yield Event(name or "message", "\n".join(data), last_id)
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id" and "\0" not in value:
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Split at LF, CR and CRLF; an unfinished last line is dropped, as the standard has it."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")
    rest, after_cr = "", False
    for chunk in chunks:
        text = decoder.decode(chunk)
        if after_cr and text:
            text = text.removeprefix("\n")
            after_cr = False
        after_cr = after_cr or text.endswith("\r")
        *lines, rest = (rest + text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
        yield from lines
