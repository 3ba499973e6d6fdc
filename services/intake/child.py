"""`python -m services.intake.child NUMBER CHANNEL SOCKET…`: one of several intake processes, started by `processes`.

CHANNEL and SOCKET are file descriptors: the connection to the supervisor, and the sockets that it listens on. Metrics
go into files of PROMETHEUS_MULTIPROC_DIR by NUMBER, so that a child that is started again counts on where the former
one stopped (https://prometheus.github.io/client_python/multiprocess/).
"""

import socket
import sys
import threading
from functools import partial
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

import structlog
from prometheus_client import values

if TYPE_CHECKING:
    from services.intake.server import RunningServer


def main() -> int:
    """Serve; return the exit status."""
    number, channel, *descriptors = (int(word) for word in sys.argv[1:])
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: number)  # type: ignore[no-untyped-call]
    # Only now: importing these defines metrics.
    from services.intake import server  # noqa: PLC0415
    from shared.process import run_process  # noqa: PLC0415
    from shared.settings.roles import IntakeSettings  # noqa: PLC0415

    structlog.contextvars.bind_contextvars(child=number)
    listeners = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    started = partial(_follow_supervisor, Connection(channel))
    return run_process("intake", IntakeSettings, partial(server.serve, sockets=listeners, started=started))


def _follow_supervisor(channel: "Connection", server: "RunningServer") -> None:
    channel.send_bytes(b"serving")
    threading.Thread(target=_answer, args=(channel, server), name="supervisor-channel", daemon=True).start()


def _answer(channel: "Connection", server: "RunningServer") -> None:
    """Answer each question, a number, with the number and why a submission would be refused, if it would."""
    try:
        while True:
            number = channel.recv_bytes()
            channel.send_bytes(number + b" " + server.unready_reason().encode())
    except (EOFError, OSError):  # the supervisor is gone, and nobody else would end this process
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
