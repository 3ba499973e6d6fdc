"""`make bench`: every benchmark in its short mode, one after the other, and one table of figures and goals."""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.accept import machine
from tests.bench.figures import FILE_VARIABLE, noted


@dataclass(frozen=True)
class Benchmark:
    """A module of `tests.bench` and its short mode."""

    name: str
    short: str = ""


BENCHMARKS = (
    Benchmark("accept", "--scale 0.3"),
    Benchmark("peers", "--rounds 1 --jobs 200 --skip-kills"),
    Benchmark("queue", "--sizes 10 20000 100000 --rounds 100"),
    Benchmark("idle", "--seconds 20"),
    Benchmark("load", "--minutes 0.5"),
    Benchmark("bodies", "--seconds 8"),
    Benchmark("tiles", f"--processes {os.cpu_count()} --rounds 1 --images 12"),
    Benchmark("answer", "--rounds 8"),
    Benchmark("host", "--steps 30"),
    Benchmark("schedule"),
    Benchmark("growth", "--most 32"),
    Benchmark("engine", "--rounds 1 --short --sides transformers resident resident-int8 resident-int4"),
)


def main() -> None:
    """Run them and print the table; 1 if one of them failed, whatever the goals say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in BENCHMARKS])
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of the benchmarks' own output")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    table = Table(title=f"{time.strftime('%d %B %Y')}, {machine()}, load {os.getloadavg()[0]:.1f}")
    for column in ("benchmark", "figure", "", "goal", ""):
        table.add_column(column)
    failed, began = False, time.monotonic()
    for benchmark in BENCHMARKS:
        if chosen.only and benchmark.name not in chosen.only:
            continue
        started, loaded = time.monotonic(), os.getloadavg()[0]
        figures, log = chosen.out / f"{benchmark.name}.figures", chosen.out / f"{benchmark.name}.txt"
        figures.unlink(missing_ok=True)
        status = _run(benchmark, figures, log)
        print(f"{benchmark.name}: {time.monotonic() - started:.0f} s, load before it {loaded:.1f}, {log}", flush=True)
        for goal in noted(figures):
            table.add_row(benchmark.name, *goal.row())
        if status:
            failed = True
            table.add_row(benchmark.name, f"failed with {status}, see {log}", "", "", "failed")
    Console(width=120).print(table)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes; tables and further figures in {chosen.out}")
    sys.exit(failed)


def _run(benchmark: Benchmark, figures: Path, log: Path) -> int:
    command = [sys.executable, "-m", f"tests.bench.{benchmark.name}", *benchmark.short.split()]
    with log.open("w") as output:
        environment = os.environ | {FILE_VARIABLE: str(figures)}
        return subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False).returncode


if __name__ == "__main__":
    main()
