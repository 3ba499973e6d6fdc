"""Programs for the supervisor: small, and as badly behaved as needed."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from services.cli.local.process import Program
from tests.waiting import eventually

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


def with_child(own_session: bool) -> str:
    """Code with a child; in a session of its own no signal to the process or its group reaches it."""
    start = f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session={own_session})"
    return f"import subprocess, sys, time; {start}; time.sleep(600)"


def python(name: str, code: str, **rest: object) -> Program:
    """Return a program that runs `code`."""
    return Program(name, [sys.executable, "-c", code], **rest)  # type: ignore[arg-type]


def pid_of(folder: Path, name: str) -> int:
    """The pid in the file of `name`, once it is there."""
    path = folder / "run" / f"{name}.pid"
    return int(eventually(lambda: path.read_text() if path.exists() else None, 60) or 0)


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def supervisor_of(folder: Path, code: str) -> "subprocess.Popen[str]":
    """Start another Python that supervises `code` as `work` in `folder`; it prints `ready`."""
    script = f"""
        import pathlib, sys
        from services.cli.local.supervisor import Supervisor
        from tests.integration.cli.programs import python
        folder = pathlib.Path(sys.argv[1])
        Supervisor(folder, [[python("work", {code!r})]]).run(lambda: print("ready", flush=True))
    """
    started = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env=dict(os.environ),
    )
    assert started.stdout
    assert started.stdout.readline() == "ready\n"
    return started
