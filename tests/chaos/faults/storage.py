"""Faults of the object storage."""

from collections.abc import Callable

from tests.chaos.faults.base import Run, break_and_heal
from tests.chaos.fleet import wait
from tests.chaos.proxy import FaultProxy


def s3_down(run: Run) -> None:
    """Object storage refuses every connection: submitting is 503, running jobs are retried (25)."""
    _of_storage(run, "s3_down", FaultProxy.cut, "refused")


def s3_slow(run: Run) -> None:
    """Object storage takes its time (25)."""

    def slow(proxy: FaultProxy) -> None:
        proxy.latency_s = 0.3

    _of_storage(run, "s3_slow", slow, "delayed")


def s3_busy(run: Run) -> None:
    """Object storage says 503 SlowDown (25)."""
    body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    _of_storage(run, "s3_busy", lambda proxy: proxy.refuse_http("503 Slow Down", body), "answered")


def s3_full(run: Run) -> None:
    """Object storage has no space left (27)."""
    body = "<Error><Code>InternalError</Code><Message>no space left on device</Message></Error>"
    _of_storage(run, "s3_full", lambda proxy: proxy.refuse_http("500 Internal Server Error", body), "answered")


def restart_storage(run: Run) -> None:
    """SIGKILL the object storage, start it again: what it acknowledged is there."""
    with run.ledger.fault("restart_storage", "seaweedfs", costs_attempts=True) as fault:
        with run.fleet.down("seaweedfs") as pid:
            wait(0.5)
        if run.fleet.restarted("seaweedfs", pid):
            fault.evidence = f"pid {pid} was killed"


def _of_storage(run: Run, name: str, break_it: Callable[[FaultProxy], None], counted: str) -> None:
    proxies = run.fleet.proxies_of("s3")
    with run.ledger.fault(name, "seaweedfs", costs_attempts=True) as fault:
        break_and_heal(fault, proxies, break_it, counted, 2.5)
