"""`make bench-queue`: what a long queue costs, by the number of queued jobs.

The store is filled by the real transition (`submit`, 500 small jobs a call, without prompt and image) on a Valkey of
its own that syncs every write. At each size: accept one job and claim one (it is released again), read a job, list 100
jobs, read the statistics, all p50; the memory of a queued job; and the time from SIGKILL of the server, which its
supervisor starts again, until a job is claimed.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.cli.local.ports import free_ports
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from shared.connections.redis_client import connect
from shared.errors import QueueUnavailable
from shared.ids import new_id
from shared.jobs import Job
from shared.settings import Settings
from shared.store import transitions
from shared.store.client import Store
from shared.store.stats import get_stats
from tests.bench.figures import at_most
from tests.waiting import eventually

SIZES = (10, 1_000, 20_000, 100_000)
JOBS_PER_SUBMIT = 500
DAY_S = 86_400.0
MODEL, TENANT = "m", "t"
RESTART_WITHIN_S = 600.0
COLUMNS = ("queued", "accept ms", "claim ms", "get ms", "list 100 ms", "stats ms", "B a job", "memory MB", "restart s")


@dataclass
class Row:
    """What was measured at one size: medians in ms, bytes, seconds."""

    size: int
    medians_ms: list[float]
    job_bytes: float
    memory_bytes: int
    restart_s: float = 0

    def cells(self) -> list[str]:
        """Return the columns as text."""
        times = [f"{median:.2f}" for median in self.medians_ms]
        memory = f"{self.memory_bytes / 1e6:,.0f}"
        return [f"{self.size:,}", *times, f"{self.job_bytes:,.0f}", memory, f"{self.restart_s:.2f}"]


def main() -> None:
    """Fill to each size in turn, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="queued jobs, ascending")
    parser.add_argument("--rounds", type=int, default=300, help="measured calls of each kind")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tileq-queue-") as name:
        (port,) = free_ports(1)
        program = valkey(Path(name), port)
        with supervised(Path(name), [[program]], lambda line: None):
            settings = Settings(redis_url=f"redis://127.0.0.1:{port}/0")
            store = Store(connect(settings.store_endpoint), settings.redis_prefix)
            pid_file = Path(name) / "run" / "valkey.pid"
            eventually(store.client.ping)
            empty = used_bytes(store)
            for size in sorted(arguments.sizes):
                fill(store, size)
                rows.append(measure(store, size, arguments.rounds, empty))
                rows[-1].restart_s = restart_s(store, size, int(pid_file.read_text()))
    for column, name in enumerate(("accept", "claim")):
        shortest, longest = (row.medians_ms[column] for row in (rows[0], rows[-1]))
        at_most(f"{name} with {rows[-1].size:,} queued, beside {rows[0].size:,}", longest / shortest, 1.2)
    table = Table(*COLUMNS)
    for row in rows:
        table.add_row(*row.cells())
    Console(width=120).print(table)


def measure(store: Store, size: int, rounds: int, empty: int) -> Row:
    """Time every call on a store with `size` queued jobs; their number is the same afterwards."""
    memory = used_bytes(store)
    accept, claim = [], []
    for _ in range(rounds):
        new = job()
        accept.append(timed(lambda new=new: submit(store, [new])))  # type: ignore[misc]
        store.run(transitions.cancel(TENANT, new.id))
        store.run(transitions.delete(TENANT, new.id))
        started = time.perf_counter()
        claimed = store.run(transitions.claim(MODEL, "bench", 60)).value
        claim.append(time.perf_counter() - started)
        if claimed is None:
            raise RuntimeError(f"nothing could be claimed of {size} queued jobs")
        store.run(transitions.release(claimed.id, claimed.attempt))
        last = claimed.id
    reads = (
        lambda: store.run(transitions.read_job(TENANT, last)),
        lambda: store.run(transitions.list_jobs(TENANT, limit=100, metadata={})),
        lambda: store.run(get_stats()),
    )
    timings = [accept, claim, *([timed(read) for _ in range(rounds)] for read in reads)]
    medians = [statistics.median(times) * 1000 for times in timings]
    return Row(size, medians, (memory - empty) / size, memory)


def fill(store: Store, size: int) -> None:
    """Submit jobs until `size` wait."""
    while (missing := size - store.run(get_stats()).states.get("queued", 0)) > 0:
        submit(store, [job() for _ in range(min(missing, JOBS_PER_SUBMIT))])


def submit(store: Store, jobs: list[Job]) -> None:
    """Accept `jobs`. Raises `RuntimeError` if the store refuses them."""
    outcome = store.run(transitions.submit(TENANT, jobs, max_queued=10_000_000, grace=2)).outcome
    if outcome != "accepted":
        raise RuntimeError(f"the store answered a submission with {outcome!r}")


def restart_s(store: Store, size: int, pid: int) -> float:
    """Kill the server; return the seconds until a job is claimed from it, all jobs being there."""
    started = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    claimed = eventually(lambda: claim_or_none(store), RESTART_WITHIN_S)
    seconds = time.perf_counter() - started
    store.run(transitions.release(claimed.id, claimed.attempt))
    left = store.run(get_stats()).states.get("queued", 0)
    if left != size:
        raise RuntimeError(f"{left} of {size} queued jobs are left after a restart")
    return seconds


def claim_or_none(store: Store) -> Job | None:
    """Claim a job; None while the server is away."""
    try:
        return store.run(transitions.claim(MODEL, "bench", 60)).value
    except QueueUnavailable:
        return None


def used_bytes(store: Store) -> int:
    """Return the memory that the server says it uses."""
    return int(store.client.info("memory")["used_memory"])


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that `call` takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def job() -> Job:
    """Return a small job that waits for a day."""
    return Job(id=new_id("job"), tenant=TENANT, model=MODEL, start_within=DAY_S, run_within=600, retain=7 * DAY_S)


if __name__ == "__main__":
    main()
