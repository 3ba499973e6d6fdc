"""Exec a program that is killed with its supervisor: ``python -IS pdeathsig.py SUPERVISOR_PID PROGRAM ARGUMENT…``.

A file of its own, run before exec, because code after a fork in a process with threads may deadlock. Linux keeps
PR_SET_PDEATHSIG over exec (prctl(2)); elsewhere the next `tileq up` on the folder kills the orphans.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for SIGKILL at the supervisor's death, then exec the program."""
    supervisor, *program = sys.argv[1:]
    if sys.platform == "linux":
        end_with_supervisor(int(supervisor))
    os.execvp(program[0], program)  # noqa: S606  # no shell is wanted


def end_with_supervisor(pid: int) -> None:
    """Have the kernel kill this process when the thread of `pid` that started it ends; exit if it has ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != pid:  # it died before prctl
        sys.exit(1)


if __name__ == "__main__":
    main()
