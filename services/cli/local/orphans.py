"""Processes that a killed supervisor left running, found by the folder in their environment (`process.MARK`)."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from services.cli.local.process import MARK

_KILL_TIMEOUT_S = 5.0


def kill_orphans(folder: Path) -> list[str]:
    """Kill the orphans of `folder` and remove its run files; return one line for each. The caller holds the lock."""
    ended: set[int] = set()
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while (found := set(processes_of(folder)) - {os.getpid()}) and time.monotonic() < deadline:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= found
        time.sleep(0.02)
    remove_run_files(folder)
    return [f"killed orphan process {pid} of a supervisor that was killed" for pid in sorted(ended)]


def remove_run_files(folder: Path) -> None:
    """Remove pid files and the like. The caller holds the folder's lock."""
    for path in (folder / "run").iterdir():
        if path.name != "lock":  # a waiting process must find the same file
            path.unlink(missing_ok=True)


def processes_of(folder: Path) -> Iterator[int]:
    """Yield the ids of this user's processes that were started for `folder`, their children included."""
    mark = f"{MARK}={folder}"
    processes = Path("/proc")
    if (processes / "self" / "environ").exists():
        for entry in processes.iterdir():
            if entry.name.isdigit():
                with suppress(OSError):  # gone meanwhile, or another user's
                    if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                        yield int(entry.name)
        return
    for line in _listing():
        pid, _, command = line.strip().partition(" ")
        if f" {mark} " in f" {command} ":
            yield int(pid)


def _listing() -> list[str]:
    """Return the lines of BSD's ps, which prints command and environment: for systems without /proc."""
    command = ["ps", "-AEww", "-o", "pid=,command="]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S603
