"""`make bench`: what one benchmark fails to do costs its own figures only, and what has been measured stays."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench import __main__ as bench
from tests.bench.__main__ import TIMED_OUT, Benchmark, results, run_all

NOTES = "from tests.bench.figures import at_least; at_least('speed', 3.0, 2.0)"


@dataclass(frozen=True)
class Script(Benchmark):
    """A benchmark that runs a line of Python."""

    minutes: float = 0.0
    code: str = NOTES

    @property
    def command(self) -> tuple[str, ...]:
        return sys.executable, "-c", self.code


def printed(wanted: list[Benchmark], out: Path, *, resume: bool = False) -> tuple[str, bool]:
    table, failed = results(wanted, run_all(wanted, out, resume=resume), out)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get(), failed


def test_a_benchmark_that_fails_leaves_the_table_its_figures_and_those_of_the_others(tmp_path: Path) -> None:
    wanted: list[Benchmark] = [
        Script("broken", code=f"{NOTES}; raise SystemExit(3)"),
        Script("unprepared", prepare=("false",)),
        Script("works"),
    ]
    text, failed = printed(wanted, tmp_path)
    assert failed
    assert text.count("3 x") == 2
    assert "failed: 3, see" in text
    assert "failed: 1, see" in text


def test_what_is_resumed_is_not_measured_again_but_failures_are(tmp_path: Path) -> None:
    printed([Script("done"), Script("failed", code="raise SystemExit(3)")], tmp_path)
    unable = "raise SystemExit('run a second time')"
    text, failed = printed([Script("done", code=unable), Script("failed")], tmp_path, resume=True)
    assert not failed
    assert text.count("3 x") == 2
    (tmp_path / "done.json").write_text("{")
    assert printed([Script("done", code=unable)], tmp_path, resume=True)[1]


def test_a_benchmark_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "LEAST_LIMIT_S", 0.2)
    endless: Benchmark = Script("endless", code="import threading; threading.Event().wait()")
    assert printed([endless], tmp_path)[1]
    assert json.loads((tmp_path / "endless.json").read_text())["status"] == TIMED_OUT


def test_an_interruption_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bench._run

    def interrupted(benchmark: Benchmark, out: Path) -> bench.Ended:
        if benchmark.name == "second":
            raise KeyboardInterrupt
        return run(benchmark, out)

    monkeypatch.setattr(bench, "_run", interrupted)
    text, failed = printed([Script("first"), Script("second"), Script("third")], tmp_path)
    assert not failed
    assert text.count("3 x") == 1
    assert text.count("not run") == 2
