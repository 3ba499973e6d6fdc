"""Prints how it was started, then does what the environment says: exit with a status, or stay."""

import json
import os
import signal
import sys
import threading
from pathlib import Path


def main() -> int:
    """Return TILEQ_TEST_STATUS at once, or stay until a signal."""
    found = {
        "argv": sys.argv,
        "environment": dict(os.environ),
        "leads_its_session": os.getsid(0) == os.getpid(),
        "descriptors": [int(entry.name) for entry in Path("/proc/self/fd").iterdir()],
        "handlers_are_the_defaults": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "name": Path("/proc/self/comm").read_text().strip(),
        "executed": "tests.integration.cli.role" in Path("/proc/self/cmdline").read_text().split("\0"),
    }
    print(json.dumps(found), flush=True)
    if status := os.environ.get("TILEQ_TEST_STATUS"):
        return int(status)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
