"""Log lines of our processes as a person reads them."""

import json

_QUIET_LEVELS = ("debug", "info")


def readable(line: str) -> str:
    """Return `event: error` of a structured line, "" of one below the level warning, any other line as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    if entry.get("level") in _QUIET_LEVELS:
        return ""
    told = [str(entry[name]) for name in ("event", "error") if entry.get(name)]
    return ": ".join(told + str(entry.get("exception") or "").splitlines()[-1:])
