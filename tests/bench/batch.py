"""`make bench-batch`: how fast a batch's lines are validated, queued and written out, and in what memory.

The whole service, without a worker: so nothing is answered, and the batch is cancelled once every line is queued, after
which each line is written to the error file. Sizes follow one another in the same process, the memory of which (PSS) is
sampled all the while: it must not grow with the file.
"""

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from tests.bench.accept import machine
from tests.bench.figures import at_least, at_most
from tests.bench.processes import processor_s, pss_bytes
from tests.service import Service, service

SIZES = (1_000, 10_000)
QUEUED_GOAL = 500  #: lines queued in a second
MEMORY_GOAL = 1.2  #: peak with the largest file over peak with the smallest
PERIOD_S = 0.1  #: between two samples
PHASES = ("validating", "in_progress", "cancelling")
COLUMNS = (
    "lines",
    "MB",
    "validated/s",
    "queued/s",
    "written/s",
    "CPU ms a line",
    "MB before",
    *(f"MB {p}" for p in PHASES),
)


@dataclass
class Row:
    """What was measured of one file: seconds and largest memory of each phase, processor seconds of the process."""

    lines: int
    size: int
    idle_bytes: int
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    processor_s: float = 0

    def cells(self) -> list[str]:
        """Return the columns as text."""
        rates = [f"{self.lines / self.seconds[phase]:,.0f}" for phase in PHASES]
        peaks = [
            f"{peak / 1e6:.0f}" for peak in (self.idle_bytes, *(self.peak_bytes.get(phase, 0) for phase in PHASES))
        ]
        cost = f"{1000 * self.processor_s / self.lines:.2f}"
        return [f"{self.lines:,}", f"{self.size / 1e6:.1f}", *rates, cost, *peaks]


def main() -> None:
    """Measure each size, print the table and note the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="lines of each file, ascending")
    parser.add_argument("--line-bytes", type=int, default=300, help="bytes of a line, about")
    chosen = parser.parse_args()
    most = str(4 * max(chosen.sizes))
    env = {"TILEQ_BATCH_QUEUED": most, "TILEQ_MAX_QUEUED": most, "TILEQ_LOG_LEVEL": "warning"}
    with service(engine="echo", vision=0, env=env) as here, httpx.Client(base_url=here.url, timeout=600) as http:
        rows = [measure(here, http, lines, chosen.line_bytes) for lines in sorted(chosen.sizes)]
    table = Table(title=f"{machine()}, load {os.getloadavg()[0]:.1f}; goal: {QUEUED_GOAL} queued/s, memory flat")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row.cells())
    Console(width=140).print(table)
    largest = rows[-1]
    at_least(
        f"lines queued of {largest.lines:,}", largest.lines / largest.seconds["in_progress"], QUEUED_GOAL, "lines/s"
    )
    growth = max(largest.peak_bytes.values()) / max(rows[0].peak_bytes.values())
    at_most(f"memory at {largest.lines:,} lines over {rows[0].lines:,}", growth, MEMORY_GOAL)


def measure(here: Service, http: httpx.Client, lines: int, line_bytes: int) -> Row:
    """Upload a file of `lines` and follow its batch to its end."""
    content = b"\n".join(_lines(lines, line_bytes))
    pid = here.pid("batches")
    row, before = Row(lines, len(content), pss_bytes(pid)), processor_s(pid)
    file = _sent(http.post("/v1/files", files={"file": ("lines.jsonl", content)}, data={"purpose": "batch"}))
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    url = "/v1/batches/" + _sent(http.post("/v1/batches", json=asked))["id"]

    def follow(phase: str, over: Callable[[Any], bool]) -> None:
        began = time.monotonic()
        while not over(body := _sent(http.get(url))):
            if body["status"] == "failed":
                raise SystemExit(f"the batch failed: {body}")
            row.peak_bytes[phase] = max(row.peak_bytes.get(phase, 0), pss_bytes(pid))
            threading.Event().wait(PERIOD_S)
        row.seconds[phase] = time.monotonic() - began

    follow("validating", lambda body: body["status"] == "in_progress")
    follow("in_progress", lambda body: body["tileq"]["lines_read"] == lines)
    _sent(http.post(f"{url}/cancel"))
    follow("cancelling", lambda body: body["status"] == "cancelled" and body["request_counts"]["failed"] == lines)
    row.processor_s = processor_s(pid) - before
    return row


def _lines(number: int, size: int) -> Iterator[bytes]:
    filler = "What is shown? " * (max(size - 150, 15) // 15)
    for n in range(number):
        body = {"messages": [{"role": "user", "content": filler}]}
        line = {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line).encode()


def _sent(answer: httpx.Response) -> Any:
    if answer.is_error:
        raise SystemExit(f"{answer.url}: {answer.text}")
    return answer.json()


if __name__ == "__main__":
    main()
