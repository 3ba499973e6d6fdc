"""The `tileq` command.

Exit status: 0 success, 1 the command, the job or the service failed, 2 the command line or a setting is invalid.
"""

import signal
import sys


def main() -> None:
    """Run the command line; an error is one message on stderr, and Ctrl-C while it loads ends it without one."""
    interrupts = signal.getsignal(signal.SIGINT)
    if interrupts is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # Seconds, the first time, in which the default handler would print a traceback.
    from services.cli import output  # noqa: PLC0415
    from services.cli.app import make_app  # noqa: PLC0415
    from services.cli.errors import CommandError  # noqa: PLC0415

    signal.signal(signal.SIGINT, interrupts)
    try:
        make_app()()
    except CommandError as failure:
        output.note(str(failure))
        sys.exit(failure.status)
