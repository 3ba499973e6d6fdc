"""The `tileq` command as a person starts it: a process of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import eventually

TILEQ = str(Path(sys.executable).with_name("tileq"))


@dataclass(frozen=True)
class Up:
    """A running `tileq up`."""

    process: "subprocess.Popen[bytes]"
    folder: Path
    out: Path
    err: Path

    @property
    def url(self) -> str:
        """Where it is."""
        return self.out.read_text().split()[-1]

    def stop(self) -> int:
        """Stop it as `kill` would; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def environment(**more: str) -> dict[str, str]:
    """The environment of a shell that knows nothing of tileq."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TILEQ_")} | more


@contextmanager
def up(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Up]:
    """`tileq up` with the echo engine on a free port, ready."""
    out, err = folder.with_suffix(".out"), folder.with_suffix(".err")
    with out.open("wb") as stdout, err.open("wb") as stderr:
        process = subprocess.Popen(
            [TILEQ, "up", "--data", str(folder), "--port", "0", *words],
            stdout=stdout,
            stderr=stderr,
            env=environment(**{"TILEQ_ENGINE": "echo", **(env or {})}),
        )
    try:
        eventually(lambda: out.read_text() or process.poll() is not None, 60)
        assert process.poll() is None, err.read_text()
        yield Up(process, folder, out, err)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def tileq(*words: str, env: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [TILEQ, *words], capture_output=True, text=True, timeout=120, check=False, env=environment(**(env or {}))
    )
