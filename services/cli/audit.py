"""The audit line of the command line: what `services/intake/audit.py` logs, as JSON on stderr."""

import getpass
import json
import sys
from datetime import UTC, datetime


def audit(act: str, target: str, outcome: str = "done", **facts: object) -> None:
    """Write one line: who (user of this machine), what (act), on what (target), how it ended. No secrets."""
    line = {
        "event": "audit",
        "act": act,
        "principal": {"user": _user()},
        "target": target,
        "outcome": outcome,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    print(json.dumps(line | facts), file=sys.stderr)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
