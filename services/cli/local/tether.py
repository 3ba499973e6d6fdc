"""Become a program that dies with its supervisor: ``python -IS tether.py SUPERVISOR_PID PROGRAM ARGUMENT…``.

Run as a file between fork and exec, because code after a fork in a process with threads may deadlock. The kernel keeps
the wish over exec. Only Linux can do this; elsewhere the next `tileq up` on the folder ends what was left.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to the supervisor's life, then become the program."""
    supervisor, *program = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != int(supervisor):  # it died before the wish was made
            sys.exit(1)
    os.execvp(program[0], program)  # noqa: S606  # no shell is wanted


if __name__ == "__main__":
    main()
