"""`make bench-idle`: memory and processor of each process of `tileq up` while nothing happens.

Twice, each in a fresh folder: with the bundled demo model, and with the `echo` engine, which needs no torch. Memory is
PSS: private pages whole, shared ones by their share, so that the sum is what the machine has given. Pages of files
(programs and libraries) are part of it and shown beside it: the kernel drops them when memory is short.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.accept import machine
from tests.bench.figures import at_most
from tests.bench.processes import file_bytes, processor_s, pss_bytes
from tests.integration.cli.command import Up, up
from tests.waiting import eventually

ENGINES = {"resident": "demo model", "echo": "no model"}
GOAL_MB, GOAL_PERCENT = 350.0, 2.0
SETTLE_S = 10.0
LOAD_WITHIN_S = 120.0


def main() -> None:
    """Measure with each engine and print a table of both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="over which processor time is measured")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    chosen = parser.parse_args()
    table = Table(title=f"tileq up, idle, {machine()}, {time.strftime('%d %B %Y')}")
    for column in ("engine", "process", "PSS MB", "of it files", "CPU % of a core"):
        table.add_column(column, justify="left" if column in ("engine", "process") else "right")
    for engine in chosen.engines:
        measured = dict(measure(engine, chosen.seconds))
        whole = measured.pop("all")
        measured["tileq up"] = [all_of - sum(part) for all_of, *part in zip(whole, *measured.values(), strict=True)]
        for name, values in (*measured.items(), ("all", whole)):
            table.add_row(ENGINES[engine], name, *(f"{value:.1f}" for value in values), end_section=name == "all")
        at_most(f"idle memory, {ENGINES[engine]}", whole[0], GOAL_MB, "MB")
        at_most(f"idle processor, {ENGINES[engine]}", whole[2], GOAL_PERCENT, "% of a core")
    table.caption = f"goals for all: {GOAL_MB:g} MB, {GOAL_PERCENT:g} % of a core"
    Console(width=100).print(table)


def measure(engine: str, seconds: float) -> Iterator[tuple[str, list[float]]]:
    """Yield MB in all, MB of files and per cent of a core of each process with its children, and of `all`."""
    with (
        tempfile.TemporaryDirectory(prefix="tileq-idle-") as folder,
        up(Path(folder) / "data", env={"TILEQ_ENGINE": engine}) as here,
    ):
        eventually(lambda: "vision up" in here.err.read_text(), LOAD_WITHIN_S)
        threading.Event().wait(SETTLE_S)
        pids = dict(_pids(here))
        before = {name: processor_s(pid) for name, pid in pids.items()}
        threading.Event().wait(seconds)
        for name, pid in pids.items():
            percent = 100 * (processor_s(pid) - before[name]) / seconds
            yield name, [pss_bytes(pid) / 1e6, file_bytes(pid) / 1e6, percent]


def _pids(here: Up) -> Iterator[tuple[str, int]]:
    for path in sorted((here.folder / "run").glob("*.pid")):
        yield path.stem, int(path.read_text())
    yield "all", here.process.pid


if __name__ == "__main__":
    main()
