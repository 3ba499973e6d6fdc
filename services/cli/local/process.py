"""One supervised process: started in a session of its own, log and pid file in the folder, never left running."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from services.cli.local import pdeathsig
from services.cli.local.forked import ForkedProcess, can_fork
from services.cli.local.log_lines import readable

#: Environment variable of every supervised process and its children: the folder of its supervisor.
MARK = "TILEQ_SUPERVISED_IN"
_MAX_LOG_BYTES = 16 << 20  # a larger log is renamed to .log.1 when the process starts


@dataclass(frozen=True)
class Program:
    """What to run, and how to find out that it is ready."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str | None] = field(default_factory=dict)  #: over the supervisor's own environment; None removes
    probe: Callable[[], str] = lambda: ""  #: returns "" once it is ready, otherwise what is missing
    stuck: Callable[[], str] = lambda: ""  #: called now and then once it was ready: why only a restart helps, or ""
    module: str = ""  #: our own; where the supervisor can fork, its fork runs this in place of `argv`
    metrics_port: int = 0  #: of /metrics, /livez and /readyz; 0: none
    awaited: bool = True  #: its stage waits until it is ready; otherwise it may start later, or fail
    start_within: float = 60  #: seconds until the probe must be content
    stop_within: float = 10  #: seconds between SIGTERM and SIGKILL
    prepare: Callable[[], None] = lambda: None  #: called before each start
    clean: Callable[[], None] = lambda: None  #: called at the end; removes what the program leaves outside the folder


class Process:
    """A `Program` in `folder`. Linux kills it when the thread that started it ends (prctl(2))."""

    def __init__(self, program: Program, folder: Path) -> None:
        self.program = program
        self.name = program.name
        self.log = folder / "logs" / f"{self.name}.log"
        self._folder = folder
        self._popen: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._group_ended = False
        self._log_start = 0  # bytes of its log that were there before this start

    def start(self) -> None:
        """Start it without waiting until it is ready. Raises `OSError`; nothing of it runs then."""
        self.program.prepare()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > _MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        wanted = {**os.environ, **self.program.env, MARK: str(self._folder)}
        environment = {name: value for name, value in wanted.items() if value is not None}
        if self.program.metrics_port:
            environment["TILEQ_METRICS_PORT"] = str(self.program.metrics_port)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._popen = self._forked(environment, log) or self._executed(environment, log)
        self._group_ended = False
        try:
            self._write_run_files(self._popen.pid)
        except OSError:
            self._kill()
            raise

    def _forked(self, environment: Mapping[str, str], log: IO[bytes]) -> ForkedProcess | None:
        if self.program.module and can_fork():
            return ForkedProcess(self.name, self.program.module, environment, log.fileno())
        return None

    def _executed(self, environment: Mapping[str, str], log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603  # our own command lines
            [sys.executable, "-IS", pdeathsig.__file__, str(os.getpid()), *self.program.argv],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id; 0 before the first start."""
        return self._popen.pid if self._popen else 0

    def exit_code(self) -> int | None:
        """Return its exit status, negative for a signal, or None while it runs; at its end its children are killed."""
        code = self._popen.poll() if self._popen else 0
        if code is not None:
            self._end_group()
        return code

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._popen and self._popen.poll() is None:
            self._popen.terminate()

    def finish(self) -> None:
        """Kill it and its children if they still run."""
        self._kill()
        self.program.clean()

    def log_tail(self, lines: int = 12) -> str:
        """Return the last `lines` lines that it logged since its start; of structured ones only warnings and errors."""
        text = self.log.read_bytes()[self._log_start :][-16_384:].decode(errors="replace") if self.log.exists() else ""
        return "\n".join([line for line in map(readable, text.splitlines()) if line][-lines:])

    def _kill(self) -> None:
        if self._popen:
            self._popen.kill()
            self._popen.wait()
            self._end_group()

    def _end_group(self) -> None:
        if self._popen and not self._group_ended:  # once: the pid may be reused later
            self._group_ended = True
            with suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
                os.killpg(self._popen.pid, signal.SIGKILL)

    def _write_run_files(self, pid: int) -> None:
        self._write_run_file("pid", str(pid))
        if self.program.metrics_port:
            self._write_run_file("metrics", str(self.program.metrics_port))

    def _write_run_file(self, kind: str, text: str) -> None:
        path = self._folder / "run" / f"{self.name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(text + "\n")
        temporary.replace(path)  # atomic: a reader never sees half a number
