"""Our own processes as forks of the supervisor: what they import alike is in memory once.

    supervisor ── imports `SHARED_IMPORTS` once, before the first fork
      ├─ fork ── intake          each imports the rest by itself; none imports what only others need
      ├─ fork ── reconciler
      └─ fork ── vision          torch is loaded here alone

A fork of a process with threads may deadlock, and one of macOS's frameworks aborts: there, and where the supervisor is
a thread of another program (tests, `tileq demo`), the same modules are started with exec. Signals, log, exit status and
session are the same for both ways; `/proc/PID/cmdline` and `environ` stay the supervisor's.
"""

import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from services.cli.local.pdeathsig import end_with_supervisor

#: What two roles or more import. None opens a connection, starts a thread or has a metric of one role, except `INTAKE`.
SHARED_IMPORTS = (
    "celery.apps.worker",
    "celery.worker.consumer",
    "fastapi",
    "httpcore",
    "kombu.transport.redis",
    "shared.broker",
    "shared.health",
    "shared.imaging.opening",
    "shared.json_schema",
    "shared.process",
    "shared.request_archive",
    "shared.s3_storage",
    "shared.store.deliveries",
    "shared.store.endpoints",
    "shared.store.health",
    "shared.store.secrets",
    "shared.store.stats",
    "shared.store.transitions",
    "shared.tokenization.tokenizer",
    "shared.views",
    "uvicorn",
    "services.intake.server",
)
INTAKE = "services.intake"  #: whose metrics intake and batches alone serve
_PR_SET_NAME = 15
_FIRST_OTHER_FD = 3
_THREADS = Path("/proc/self/task")


def can_fork() -> bool:
    """Tell whether this process has one thread, counted by the system too, on a system where fork alone is safe."""
    return (
        sys.platform == "linux"
        and threading.current_thread() is threading.main_thread()
        and len(list(_THREADS.iterdir())) == 1
    )


@cache
def import_shared() -> None:
    """Import what the roles share, and leave no garbage in the pages that they will share."""
    for name in SHARED_IMPORTS:
        import_module(name)
    gc.collect()


def drop_metrics_of_others(module: str) -> None:
    """Unregister the metrics of `INTAKE` unless the role `module` belongs to it."""
    if module.partition(".batches")[0] != INTAKE:
        for metric in vars(import_module(f"{INTAKE}.metrics")).values():
            if isinstance(metric, MetricWrapperBase):
                REGISTRY.unregister(metric)


class ForkedProcess:
    """`python -m MODULE` without exec; the methods are those of `subprocess.Popen`."""

    def __init__(self, name: str, module: str, environment: Mapping[str, str], log: int) -> None:
        import_shared()
        gc.freeze()  # a collection in the child writes to no page of the supervisor's objects
        self._process = multiprocessing.get_context("fork").Process(
            target=_become, args=(name, module, environment, log, os.getpid()), name=name
        )
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # until its handlers are its own
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal, or None while it runs."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Wait until it ends; return its exit status."""
        self._process.join()
        return self._process.exitcode

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()


def _become(name: str, module: str, environment: Mapping[str, str], log: int, supervisor: int) -> None:
    """Be what `python -m module` is, in a session of its own with `log` as its output; never return."""
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    end_with_supervisor(supervisor)
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode())
    for output in (1, 2):
        os.dup2(log, output)
    os.closerange(_FIRST_OTHER_FD, os.sysconf("SC_OPEN_MAX"))  # the folder's lock, connections of probes
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module]
    drop_metrics_of_others(module)
    sys.exit(import_module(f"{module}.__main__").main())
