"""Supervises several intake processes on one port, for TILEQ_HTTP_PROCESSES above 1.

    supervisor            binds the port; /metrics, /livez and /readyz for all; starts a child again that ends
      child 1 … child N   accept from the same socket, each with an event loop, clients, caches and limits of its own

One shared socket, not SO_REUSEPORT: a child that is busy or dead accepts nothing, and the connections that wait are
taken by the others. A child that loses its supervisor ends by itself. uvicorn's own supervisor is not used: it answers
no /readyz, cannot tell refused settings from a crash, and ends with status 0 where no child could start.
"""

import signal
import socket
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from services.intake.child_process import ChildProcess, NoAnswer
from services.intake.timeouts import READY_TIMEOUT_S, SHUTDOWN_TIMEOUT_S
from shared.health import HealthServer
from shared.process import EXIT_REFUSED
from shared.settings.roles import IntakeSettings

WATCH_PERIOD_S = 0.2
DRAIN_TIMEOUT_S = SHUTDOWN_TIMEOUT_S + 5  #: between SIGTERM and SIGKILL of the children
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0  #: before a child is started again; doubles with each short run
STABLE_S = 60.0  #: a child that ran this long is started again after `FIRST_BACKOFF_S`
BACKLOG = 2048  #: connections that wait to be accepted
log = structlog.get_logger(__name__)


def supervise(settings: IntakeSettings) -> int:
    """Serve in `http_processes` children until a signal; return the exit status. Raises `SettingsError`."""
    with ExitStack() as stack:
        try:
            sockets = [stack.enter_context(one) for one in bind(settings.host, settings.port)]
        except OSError as error:
            log.error("port can't be bound", host=settings.host, port=settings.port, error=error.strerror or str(error))
            return 1
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tileq-metrics-")))
        supervisor = ProcessSupervisor(settings.http_processes, sockets, folder)
        ready = {"intake": supervisor.check_ready}
        health = HealthServer(settings, ready=ready, registry=supervisor.registry)
        stack.callback(health.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: supervisor.stop())
        return supervisor.run()


def bind(host: str, port: int) -> list[socket.socket]:
    """Return a socket that listens for each address of `host`, as asyncio does. Raises `OSError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address[:2]) for family, _, _, _, address in found)
    with ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_server(address, family=family, backlog=BACKLOG))
            for family, address in addresses
        ]
        stack.pop_all()
        return sockets


class ProcessSupervisor:
    """Keeps `count` children running. `stop` and `check_ready` may be called from other threads and signal handlers."""

    def __init__(self, count: int, sockets: Sequence[socket.socket], metrics: Path) -> None:
        self._sockets = list(sockets)
        self._metrics = metrics
        self._stopping = threading.Event()
        self._children: dict[int, ChildProcess] = {}
        self._restart_at: dict[int, float] = {}
        self._backoff_s = dict.fromkeys(range(1, count + 1), FIRST_BACKOFF_S)
        self._has_served = False
        self.registry = CollectorRegistry()
        MultiProcessCollector(self.registry, str(metrics))  # type: ignore[no-untyped-call]
        Gauge(
            "tileq_http_processes", "Processes that take requests, where there are several", registry=self.registry
        ).set_function(lambda: len(self._serving()))
        self._restarts = Counter(
            "tileq_http_process_restarts_total", "Intake processes that ended and were replaced", registry=self.registry
        )

    def stop(self) -> None:
        """Make `run` end the children and return."""
        self._stopping.set()

    def check_ready(self) -> None:
        """Raise `RuntimeError` unless a child takes requests and each that does would accept a submission."""
        serving = self._serving()
        if not serving:
            raise RuntimeError("no intake process takes requests")
        reasons: dict[str, None] = {}  # in order, each once
        deadline = time.monotonic() + READY_TIMEOUT_S
        for child in serving:
            try:
                reasons[child.unready_reason(max(0.0, deadline - time.monotonic()))] = None
            except NoAnswer as error:
                reasons[str(error)] = None
        if failures := [reason for reason in reasons if reason]:
            raise RuntimeError("; ".join(failures))

    def run(self) -> int:
        """Start the children, and again those that end, until `stop`; return the exit status."""
        try:
            for number in self._backoff_s:
                self._start(number)
            while not self._stopping.wait(WATCH_PERIOD_S):
                for number, child in list(self._children.items()):
                    if (code := child.exit_code()) is not None and (status := self._ended(child, code)) is not None:
                        return status
                    self._has_served = self._has_served or child.serving
                    if code is None and time.monotonic() - child.started_at > STABLE_S:
                        self._backoff_s[number] = FIRST_BACKOFF_S
                self._restart_due()
        finally:
            self._drain()
        return 0

    def _start(self, number: int) -> None:
        self._children[number] = ChildProcess(number, self._sockets, self._metrics)
        log.info("intake process started", child=number, pid=self._children[number].pid)

    def _ended(self, child: ChildProcess, code: int) -> int | None:
        """Plan the next start of a child that ended; return an exit status where none has ever served."""
        child.kill()
        del self._children[child.number]
        mark_process_dead(child.number, str(self._metrics))  # type: ignore[no-untyped-call]
        if not self._has_served:
            log.error("intake process ended before it took requests", child=child.number, pid=child.pid, code=code)
            return EXIT_REFUSED if code == EXIT_REFUSED else 1
        backoff_s = self._backoff_s[child.number]
        self._backoff_s[child.number] = min(2 * backoff_s, MAX_BACKOFF_S)
        self._restart_at[child.number] = time.monotonic() + backoff_s
        log.error("intake process ended", child=child.number, pid=child.pid, code=code, again_in_s=backoff_s)
        return None

    def _restart_due(self) -> None:
        for number, due in list(self._restart_at.items()):
            if time.monotonic() >= due:
                del self._restart_at[number]
                self._restarts.inc()
                self._start(number)

    def _serving(self) -> list[ChildProcess]:
        return [child for child in list(self._children.values()) if child.serving]

    def _drain(self) -> None:
        """Refuse new connections, let the children answer those they have, and kill what does not end in time."""
        for listener in self._sockets:
            listener.close()
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while time.monotonic() < deadline and any(one.exit_code() is None for one in self._children.values()):
            time.sleep(WATCH_PERIOD_S / 4)
        for child in self._children.values():
            if child.exit_code() is None:
                log.warning("intake process is killed: it did not end in time", child=child.number, pid=child.pid)
            child.kill()
