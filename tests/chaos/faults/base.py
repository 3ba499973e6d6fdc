"""What faults share: the run that they touch, and how something is broken, killed, awaited."""

import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.fleet import WORKERS, Fleet, wait
from tests.chaos.ledger import Fault, Kind, Ledger
from tests.chaos.proxy import FaultProxy, Network
from tests.chaos.receiver import Receiver
from tests.chaos.traffic import Traffic
from tests.waiting import eventually


@dataclass
class Run:
    """Everything that a fault may touch."""

    fleet: Fleet
    network: Network
    ledger: Ledger
    traffic: Traffic
    receiver: Receiver
    hook: FaultProxy  #: in front of the receiver
    rng: random.Random
    hard_kills: int = 0  #: of processes that consume hints; each may strand what it held
    recovered: bool = False
    failovers: int = 0

    @property
    def store_name(self) -> str:
        """The process of the present primary."""
        return f"valkey-{self.failovers + 1}" if self.failovers else "valkey"

    def worker(self) -> str:
        """One of the vision workers."""
        return self.rng.choice(WORKERS)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Kill a process; it is started again."""
        if number is signal.SIGKILL and name in (*WORKERS, "webhooks"):
            self.hard_kills += 1
        return self.fleet.kill(name, number)

    def submit(self, kind: Kind, patience_s: float = 20) -> str:
        """Submit one job beside the traffic; its id, or "" where it was not taken."""
        with self.ledger.client() as http:
            submission = self.traffic.submit(kind, http, patience_s=patience_s)
        return next(iter(submission.ids), "")

    def state(self, id: str) -> str:
        """The state of a job, or "" where there is no answer."""
        with self.ledger.client() as http:
            job = self.traffic.look(id, http, self.rng.choice(self.traffic.urls))
        return job["state"] if job else ""


def break_and_heal(
    fault: Fault, proxies: list[FaultProxy], break_it: Callable[[FaultProxy], None], counted: str, seconds: float
) -> None:
    """Break the proxies for `seconds`, and heal them; evidence is how much they count as `counted` meanwhile."""
    before = sum(proxy.counts[counted] for proxy in proxies)
    for proxy in proxies:
        break_it(proxy)
    wait(seconds)
    if within(8, lambda: sum(proxy.counts[counted] for proxy in proxies) > before):
        fault.evidence = f"{sum(proxy.counts[counted] for proxy in proxies) - before} {counted}"
    for proxy in proxies:
        proxy.heal()


def kill(run: Run, name: str) -> None:
    """SIGKILL a process, unless it is gone already."""
    with suppress(ProcessLookupError):
        run.kill(name)


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    """Wait until `holds`, for `seconds` at most; tell whether it did."""
    try:
        return eventually(holds, seconds, 0.05)
    except AssertionError:
        return False


def is_command(data: bytes) -> bool:
    """Tell whether a chunk is a PUT or a Redis command of some length: scripts and publishing, no PING or INFO."""
    return data.startswith((b"PUT ", b"*")) and not data.startswith((b"*1\r\n", b"*2\r\n"))


def process_state(pid: int) -> str:
    """Return the state of a process, one letter: `T` is stopped. proc(5)"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
