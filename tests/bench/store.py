"""`make bench-store`: how many jobs a second one job store carries, by the number of clients at once.

Each client is a process that accepts a small job, claims one and ends it, on a Valkey that syncs every write; nothing
else of the service runs. Clients take most of the processor, so on few cores the rate is theirs; the server's own
processor time for a job says what a store with a core to itself would carry.
"""

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

from services.cli.local.ports import free_ports
from services.cli.local.supervisor import supervised
from services.cli.local.valkey import valkey
from shared.connections.redis_client import connect
from shared.jobs import State
from shared.settings.roles import Settings
from shared.store import transitions
from shared.store.client import Store
from tests.bench.accept import machine
from tests.bench.processes import processor_s
from tests.bench.queue import MODEL, job, submit

CLIENTS = (1, 4, 16)
RESULT = {"finish_reason": "stop", "tiles": 13, "completion_tokens": 12}


def main() -> None:
    """Measure with each number of clients and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    chosen = parser.parse_args()
    table = Table(title=f"one job store, accept + claim + finish, {machine()}, {time.strftime('%d %B %Y')}")
    for column in ("clients", "jobs/s", "store, CPU ms a job", "store, % of a core", "a core would carry, jobs/s"):
        table.add_column(column, justify="right")
    for clients in CLIENTS:
        jobs, cpu_s = measure(clients, chosen.seconds)
        rate, each_ms = jobs / chosen.seconds, 1000 * cpu_s / jobs
        share = 100 * cpu_s / chosen.seconds
        table.add_row(str(clients), f"{rate:,.0f}", f"{each_ms:.2f}", f"{share:.0f}", f"{1000 / each_ms:,.0f}")
    Console(width=110).print(table)


def measure(clients: int, seconds: float) -> tuple[int, float]:
    """Return the jobs that `clients` ended in `seconds`, and the processor seconds that the server took for them."""
    (port,) = free_ports(1)
    url = f"redis://127.0.0.1:{port}/0"
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="tileq-store-") as folder,
        supervised(Path(folder), [[valkey(Path(folder), port)]]),
        ProcessPoolExecutor(clients, mp_context=spawn) as pool,
    ):
        pid = int((Path(folder) / "run/valkey.pid").read_text())
        list(pool.map(end_jobs, [url] * clients, [1.0] * clients))  # every process has imported and connected
        before = processor_s(pid)
        ended = sum(pool.map(end_jobs, [url] * clients, [seconds] * clients))
        return ended, processor_s(pid) - before


def end_jobs(url: str, seconds: float) -> int:
    """Accept, claim and end jobs for `seconds`; return how many were ended."""
    settings = Settings(redis_url=url)
    store, ended, end = Store(connect(settings.store_endpoint), settings.redis_prefix), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        submit(store, [job()])
        claimed = store.run(transitions.claim(MODEL, "bench", 60)).value
        if claimed and store.run(transitions.finish(claimed.id, claimed.attempt, State.SUCCEEDED, RESULT)).value:
            ended += 1
    return ended


if __name__ == "__main__":
    main()
