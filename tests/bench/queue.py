"""`make bench-queue`: what a long queue costs, by the number of queued jobs.

The store is filled by the real transition (`submit`, 500 small jobs a call, without prompt and image) on a Valkey of
its own that syncs every write. At each size: accept one job and claim one (it is released again), read a job, list 100
jobs, read the statistics, and the calls of a reconciler's pass, all p50; the memory of a queued job; and the time from
SIGKILL of the server, which its supervisor starts again after 0.5 s, until a job is claimed. What the server loads then
stands beside it: the base of the append-only file (an RDB dump) and the commands since, twice as slow a byte.

Accepting and claiming wait for the disk, whose pace changes from minute to minute and would hide what grows. So both
are also timed without that wait, in turn with a second server that holds 10 jobs. `x` is the p50 with the disk, longer
by the difference of those two, over the p50 with the disk; `script` is the server's own time for one of their scripts.
"""

import argparse
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from services.cli.local.ports import free_ports
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from shared.connections.redis_client import connect
from shared.errors import QueueUnavailable
from shared.ids import new_id
from shared.jobs import Job
from shared.settings.roles import Settings
from shared.store import deliveries, transitions
from shared.store.client import Store
from shared.store.command import StoreCommand
from shared.store.stats import get_stats
from tests.bench.figures import at_most
from tests.waiting import eventually

FEW = 10  #: jobs of the server beside
SIZES = (10, 1_000, 20_000, 100_000, 1_000_000)
JOBS_PER_SUBMIT = 500
DAY_S = 86_400.0
MODEL, TENANT = "m", "t"
RESTART_WITHIN_S = 600.0
COLUMNS = ("queued", "accept", "x", "claim", "x", "script µs", "get", "list", "stats", "pass")
STORE_COLUMNS = ("B a job", "MB", "AOF MB", "restart s")


@dataclass
class Row:
    """What was measured at one size: medians in ms and ratios in the order of the columns, bytes, seconds."""

    size: int
    medians: list[float]
    job_bytes: float
    memory_bytes: int
    restart_s: float = 0
    aof_mb: str = ""  #: base + commands since, as the restart loads them

    def cells(self) -> list[str]:
        """Return the columns as text."""
        times = [f"{median:.2f}" for median in self.medians]
        memory = f"{self.memory_bytes / 1e6:,.0f}"
        return [f"{self.size:,}", *times, f"{self.job_bytes:,.0f}", memory, self.aof_mb, f"{self.restart_s:.2f}"]


def main() -> None:
    """Fill to each size in turn, measure, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="queued jobs, ascending")
    parser.add_argument("--rounds", type=int, default=300, help="measured calls of each kind")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tileq-queue-") as folder, server(Path(folder) / "few") as (few, _):
        empty = used_bytes(few)
        fill(few, FEW)
        for size in sorted(arguments.sizes):
            with server(Path(folder) / "many") as (
                store,
                pid,
            ):  # a supervisor waits longer with each restart
                fill(store, size)
                rows.append(measure(store, few, size, arguments.rounds, empty))
                rows[-1].aof_mb = aof_mb(Path(folder) / "many")
                rows[-1].restart_s = restart_s(store, size, pid)
    for column, name in ((1, "accept"), (3, "claim")):
        at_most(f"{name} with {rows[-1].size:,} queued, beside {FEW}", rows[-1].medians[column], 1.2)
    for row in rows:
        if row.size >= 1_000:  # below, the server's own buffers are most of it
            at_most(f"memory of a job with {row.size:,} queued", row.job_bytes / 1000, 2.5, "kB")
        if row.size == 100_000:
            at_most("restart of the store with 100,000 queued", row.restart_s, 5, "s")
    table = Table(*COLUMNS, *STORE_COLUMNS, caption="accept to pass: ms; a reconciler makes one pass a second")
    for row in rows:
        table.add_row(*row.cells())
    Console(width=140).print(table)


@contextmanager
def server(folder: Path) -> Iterator[tuple[Store, int]]:
    """Run Valkey on the data in `folder` while the block runs, under a supervisor of its own; its pid."""
    (port,) = free_ports(1)
    with supervised(folder, [[replace(valkey(folder, port), start_within=RESTART_WITHIN_S)]], lambda line: None):
        settings = Settings(redis_url=f"redis://127.0.0.1:{port}/0")
        yield (
            Store(connect(settings.store_endpoint), settings.redis_prefix),
            int((folder / "run/valkey.pid").read_text()),
        )


def aof_mb(folder: Path) -> str:
    """Return the megabytes of the append-only file's base and of the commands since."""
    files = [path for path in (folder / "appendonlydir").iterdir() if path.suffix != ".manifest"]
    sizes = {kind: sum(path.stat().st_size for path in files if path.suffix == kind) for kind in (".rdb", ".aof")}
    return f"{sizes['.rdb'] / 1e6:,.0f} + {sizes['.aof'] / 1e6:,.0f}"


def measure(store: Store, few: Store, size: int, rounds: int, empty: int) -> Row:
    """Time every call on a store with `size` queued jobs, some on `few` too; both are the same afterwards."""
    memory = used_bytes(store)
    with_disk = [accept_and_claim_s(store) for _ in range(rounds)]
    with without_disk(store), without_disk(few):
        store.client.config_resetstat()
        pairs = [(accept_and_claim_s(store), accept_and_claim_s(few)) for _ in range(rounds)]
        script_us = store.client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    medians = []
    for call in range(2):
        whole = statistics.median(times[call] for times in with_disk)
        here, beside = (statistics.median(pair[side][call] for pair in pairs) for side in range(2))
        medians += [1000 * whole, 1 + (here - beside) / whole]
    medians.append(script_us)
    last = store.run(transitions.list_jobs(TENANT, limit=1, metadata={}))[0][0].id
    steps: tuple[StoreCommand[Any], ...] = (
        transitions.reap(1),
        transitions.expire_due(),
        transitions.dispatch(10),
        deliveries.list_due(),
        transitions.purge(),
        transitions.list_trash(),
    )
    reads: tuple[Callable[[], object], ...] = (
        lambda: store.run(transitions.read_job(TENANT, last)),
        lambda: store.run(transitions.list_jobs(TENANT, limit=100, metadata={})),
        lambda: store.run(get_stats()),
        lambda: [store.run(step) for step in steps],
    )
    medians += [1000 * statistics.median(timed(read) for _ in range(rounds)) for read in reads]
    return Row(size, medians, (memory - empty) / size, memory)


@contextmanager
def without_disk(store: Store) -> Iterator[None]:
    """Have the server answer writes before they are on the disk while the block runs."""
    store.client.config_set("appendfsync", "no")
    yield
    store.client.config_set("appendfsync", "always")


def accept_and_claim_s(store: Store) -> tuple[float, float]:
    """Accept a job and delete it, claim the oldest and release it; return the seconds of accepting and claiming."""
    new = job()
    accept = timed(lambda: submit(store, [new]))
    store.run(transitions.cancel(TENANT, new.id))
    store.run(transitions.delete(TENANT, new.id))
    started = time.perf_counter()
    claimed = store.run(transitions.claim(MODEL, "bench", 60)).value
    claim = time.perf_counter() - started
    if claimed is None:
        raise RuntimeError("nothing could be claimed of a queue that is not empty")
    store.run(transitions.release(claimed.id, claimed.attempt))
    return accept, claim


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
