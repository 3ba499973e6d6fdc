"""One child of the supervisor in `processes`: started with the shared sockets, and asked whether it is ready."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import Pipe
from pathlib import Path


class NoAnswer(Exception):
    """A child did not tell whether it is ready; the message says why."""


class ChildProcess:
    """A running `services.intake.child`. Everything but `unready_reason` belongs to the supervisor's thread."""

    def __init__(self, number: int, sockets: Sequence[socket.socket], metrics: Path) -> None:
        self.number = number
        self.serving = False
        self.started_at = time.monotonic()
        self._asked = 0
        self._lock = threading.Lock()
        self._channel, theirs = Pipe()
        with theirs:
            descriptors = [theirs.fileno(), *(listener.fileno() for listener in sockets)]
            self._popen = subprocess.Popen(  # noqa: S603  # our own module
                [*_python(), "-m", "services.intake.child", str(number), *map(str, descriptors)],
                env=_environment(metrics),
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """Return its exit status, negative for a signal, or None while it runs; note that it serves once it does."""
        code = self._popen.poll()
        if not self.serving and code is None and self._channel.poll():
            try:
                self.serving = self._channel.recv_bytes() == b"serving"
            except (EOFError, OSError):  # it is ending
                return None
        return code

    def unready_reason(self, timeout_s: float) -> str:
        """Return why a submission to it would be refused, or "". Raises `NoAnswer`. Thread-safe."""
        with self._lock:
            self._asked += 1
            question, deadline = str(self._asked).encode(), time.monotonic() + timeout_s
            try:
                self._channel.send_bytes(question)
                while self._channel.poll(max(0.0, deadline - time.monotonic())):
                    number, _, reason = self._channel.recv_bytes().partition(b" ")
                    if number == question:  # an earlier one was answered after its time-out
                        return reason.decode()
            except (EOFError, OSError):
                raise NoAnswer(f"process {self.pid} has ended") from None
        raise NoAnswer(f"process {self.pid} gave no answer within {timeout_s:g} s")

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._popen.terminate()

    def kill(self) -> None:
        """Kill it if it still runs, and let go of it."""
        self._popen.kill()
        self._popen.wait()
        self._channel.close()


def _python() -> list[str]:
    """Return this Python; -P, which imports nothing from the working directory, is passed on."""
    return [sys.executable, *(["-P"] if sys.flags.safe_path else [])]


def _environment(metrics: Path) -> dict[str, str]:
    """Return the environment of a child: metrics go into files, and the health port is the supervisor's."""
    kept = {name: value for name, value in os.environ.items() if name != "TILEQ_METRICS_PORT_FILE"}
    return kept | {"PROMETHEUS_MULTIPROC_DIR": str(metrics), "TILEQ_METRICS_PORT": "0"}
