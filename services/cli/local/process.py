"""One supervised process: started in a session of its own, its log and pid in the folder, stopped for certain."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from services.cli.local import tether

#: Environment variable of every supervised process and of all its children: the folder it works for.
MARK = "TILEQ_SUPERVISED_IN"
_LOG_BYTES = 16 << 20  # a log above this is set aside when the process starts


@dataclass(frozen=True)
class Program:
    """What to run, and how to tell that it is ready."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str | None] = field(default_factory=dict)  #: over the supervisor's own environment; None removes
    probe: Callable[[], str] = lambda: ""  #: "" once it is ready, otherwise what is still missing
    metrics_port: int = 0  #: of /metrics; 0: none
    awaited: bool = True  #: its stage is up only when it is; otherwise it may take its time and fail
    start_within: float = 60  #: seconds until the probe must be content
    stop_within: float = 10  #: seconds between SIGTERM and SIGKILL
    prepare: Callable[[], None] = lambda: None  #: before each start, when nothing else works in the folder
    clean: Callable[[], None] = lambda: None  #: removes what the program leaves outside the folder


class Process:
    """A `Program` in `folder`. The thread that starts it must outlive it: its end is the process's end (tether.py)."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.name = program.name
        self.log = folder / "logs" / f"{self.name}.log"
        self._folder = folder
        self._popen: subprocess.Popen[bytes] | None = None
        self._swept = False

    def start(self) -> None:
        """Start it, without waiting for readiness."""
        self.program.prepare()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        wanted = {**os.environ, **self.program.env, MARK: str(self._folder)}
        environment = {name: value for name, value in wanted.items() if value is not None}
        if self.program.metrics_port:
            environment["TILEQ_METRICS_PORT"] = str(self.program.metrics_port)
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(  # noqa: S603  # our own command lines
                [sys.executable, "-IS", tether.__file__, str(os.getpid()), *self.program.argv],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._swept = False
        self._note("pid", str(self._popen.pid))
        if self.program.metrics_port:
            self._note("metrics", str(self.program.metrics_port))

    @property
    def pid(self) -> int:
        """Process id; 0 before the first start."""
        return self._popen.pid if self._popen else 0

    def exit_code(self) -> int | None:
        """Return how it ended, negative for a signal, or None while it runs. What it started goes with it."""
        code = self._popen.poll() if self._popen else 0
        if code is not None:
            self._end_group()
        return code

    def terminate(self) -> None:
        """Ask it to stop."""
        if self._popen and self._popen.poll() is None:
            self._popen.terminate()

    def finish(self) -> None:
        """Kill it if it still runs; afterwards nothing of it is left."""
        if self._popen:
            self._popen.kill()
            self._popen.wait()
            self._end_group()
        self.program.clean()

    def last_words(self, lines: int = 12) -> str:
        """Return the end of its log."""
        text = self.log.read_bytes()[-16_384:].decode(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _end_group(self) -> None:
        if self._popen and not self._swept:  # once: later its number may be another's
            self._swept = True
            with suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
                os.killpg(self._popen.pid, signal.SIGKILL)

    def _note(self, kind: str, text: str) -> None:
        path = self._folder / "run" / f"{self.name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_text(text + "\n")
        fresh.replace(path)  # a reader never sees half a number
