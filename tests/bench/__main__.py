"""`make bench`: every benchmark in its short mode, one after the other, and one table of figures and goals.

    make bench ONLY='tiles host'      some of them
    make bench RESUME=1               without those that the last run has finished: what it measured is in the table

A benchmark that fails or takes too long costs its own figures only, and the table is printed after Ctrl-C, too.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.accept import machine
from tests.bench.figures import FILE_VARIABLE, noted

TIMED_OUT = "took too long"


@dataclass(frozen=True)
class Benchmark:
    """A module of `tests.bench` and its short mode."""

    name: str
    minutes: float  #: that it takes on two cores with nothing else running
    short: str = ""
    prepare: tuple[str, ...] = ()  #: a command before it

    @property
    def command(self) -> tuple[str, ...]:
        """How it is run."""
        return sys.executable, "-m", f"tests.bench.{self.name}", *self.short.split()


@dataclass(frozen=True)
class Ended:
    """How a run of a benchmark ended, kept beside its figures."""

    status: int | str
    seconds: float
    load: float  #: of the machine, before it


BENCHMARKS = (
    Benchmark("arithmetic", 0.2),
    Benchmark("host", 0.3, "--steps 30"),
    Benchmark("schedule", 0.7),
    Benchmark("accept", 1, "--scale 0.3"),
    Benchmark("peers", 3, "--rounds 1 --jobs 200 --skip-kills", prepare=("make", "build/peers-env/.made")),
    Benchmark("queue", 4, "--sizes 10 20000 100000 --rounds 100"),
    Benchmark("idle", 2, "--seconds 20"),
    Benchmark("load", 2, "--minutes 0.5"),
    Benchmark("bodies", 1, "--seconds 8"),
    Benchmark("tiles", 2, f"--processes {os.cpu_count()} --rounds 1 --images 12"),
    Benchmark("answer", 1, "--rounds 8"),
    Benchmark("growth", 6, "--most 32"),
    Benchmark("engine", 20, "--rounds 1 --sides transformers resident resident-int8 resident-int4"),
)
LIMIT_FACTOR, LEAST_LIMIT_S = 5, 120  # a busy machine may take so many times the minutes before a benchmark is ended


def main() -> None:
    """Run them and print the table; 1 if one of them failed, whatever the goals say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[one.name for one in BENCHMARKS])
    parser.add_argument("--resume", action="store_true", help="keep what the last run has finished")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder of the benchmarks' own output")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    wanted = [one for one in BENCHMARKS if not chosen.only or one.name in chosen.only]
    ended = run_all(wanted, chosen.out, resume=chosen.resume)
    table, failed = results(wanted, ended, chosen.out)
    Console(width=120).print(table)
    print(f"{sum(one.seconds for one in ended.values()) / 60:.1f} minutes; tables and further figures in {chosen.out}")
    sys.exit(failed)


def run_all(wanted: Sequence[Benchmark], out: Path, *, resume: bool) -> dict[str, Ended]:
    """How each ended, those up to an interruption."""
    ended = {one.name: last for one in wanted if resume and (last := _last(one, out)) and last.status == 0}
    left = [one for one in wanted if one.name not in ended]
    print(f"{len(left)} benchmarks, about {sum(one.minutes for one in left):.0f} minutes on two idle cores", flush=True)
    for benchmark in left:
        try:
            ended[benchmark.name] = _run(benchmark, out)
        except KeyboardInterrupt:
            print(f"{benchmark.name}: interrupted; RESUME=1 goes on with it", flush=True)
            break
        found = ended[benchmark.name]
        status = "" if found.status == 0 else f", failed: {found.status}"
        print(f"{benchmark.name}: {found.seconds:.0f} s, load before it {found.load:.1f}{status}", flush=True)
    return ended


def results(wanted: Sequence[Benchmark], ended: dict[str, Ended], out: Path) -> tuple[Table, bool]:
    """All figures that have a goal, and whether a benchmark failed."""
    table = Table(title=f"{time.strftime('%d %B %Y')}, {machine()}")
    for column in ("benchmark", "figure", "", "goal", ""):
        table.add_column(column)
    for one in wanted:
        if not (found := ended.get(one.name)):
            table.add_row(one.name, "not run", "", "", "")
            continue
        name = f"{one.name} ({found.seconds:.0f} s, load {found.load:.0f})"
        for figure in noted(_files(one, out)["figures"]):
            table.add_row(name, *figure.row())
            name = ""
        if found.status != 0:
            table.add_row(name, f"failed: {found.status}, see {_files(one, out)['txt']}", "", "", "failed")
        elif name:
            table.add_row(name, f"no goals, see {_files(one, out)['txt']}", "", "", "")
    return table, any(found.status != 0 for found in ended.values())


def _files(benchmark: Benchmark, out: Path) -> dict[str, Path]:
    return {suffix: out / f"{benchmark.name}.{suffix}" for suffix in ("figures", "txt", "json")}


def _last(benchmark: Benchmark, out: Path) -> Ended | None:
    try:
        return Ended(**json.loads(_files(benchmark, out)["json"].read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _run(benchmark: Benchmark, out: Path) -> Ended:
    """Run one; what it noted before it failed stays."""
    files = _files(benchmark, out)
    for file in files.values():
        file.unlink(missing_ok=True)
    began, load = time.monotonic(), os.getloadavg()[0]
    limit_s = max(LEAST_LIMIT_S, 60 * LIMIT_FACTOR * benchmark.minutes)
    environment = os.environ | {FILE_VARIABLE: str(files["figures"])}
    status: int | str = 0
    with files["txt"].open("w") as log:
        for command in filter(None, (benchmark.prepare, benchmark.command)):
            status = status or _status(command, log.fileno(), environment, limit_s)
    ended = Ended(status, time.monotonic() - began, load)
    files["json"].write_text(json.dumps(asdict(ended)))
    return ended


def _status(command: Sequence[str], log: int, environment: dict[str, str], limit_s: float) -> int | str:
    """Exit status of a command, which is ended with all processes that it has started where it takes too long."""
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return TIMED_OUT
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


if __name__ == "__main__":
    main()
