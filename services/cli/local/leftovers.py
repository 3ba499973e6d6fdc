"""Processes that a killed supervisor left behind. They carry the folder in their environment (`process.MARK`)."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from services.cli.local.process import MARK

_PATIENCE = 5.0


def end_leftovers(folder: Path) -> list[str]:
    """Kill what still works for `folder`, and remove its notes. The caller holds the folder's lock."""
    ended: set[int] = set()
    deadline = time.monotonic() + _PATIENCE
    while (found := set(marked(folder)) - {os.getpid()}) and time.monotonic() < deadline:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended |= found
        time.sleep(0.02)
    remove_notes(folder)
    return [f"ended process {pid}, left over from a supervisor that was killed" for pid in sorted(ended)]


def remove_notes(folder: Path) -> None:
    """Remove everything that tells of running processes. The caller holds the folder's lock."""
    for note in (folder / "run").iterdir():
        if note.name != "lock":  # whoever waits for it must find the same file
            note.unlink(missing_ok=True)


def marked(folder: Path) -> Iterator[int]:
    """Ids of this user's processes that were started for `folder`, their children included."""
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
    """Where there is no /proc: BSD's ps, which tells command and environment in one line."""
    command = ["ps", "-AEww", "-o", "pid=,command="]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()  # noqa: S603
