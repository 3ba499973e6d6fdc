"""`make bench-engine` lets its sides measure in turn."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.engine import in_turn
from tests.bench.engine_peers.environments import PeerUnavailable, figures

SIDE = """
import pathlib
from tests.bench.engine_peers.stages import report
for number in range(3):
    print("something else")
    pathlib.Path({began!r}).write_text(str(number))
    report("stage", number)
"""


def test_a_side_waits_while_the_others_measure(tmp_path: Path) -> None:
    began = tmp_path / "began"
    taken = figures([sys.executable, "-c", SIDE.format(began=str(began))], tmp_path / "log.txt")
    assert next(taken) == ("stage", 0)
    assert began.read_text() == "0"
    assert next(taken) == ("stage", 1)
    assert list(taken) == [("stage", 2)]
    assert "something else" in (tmp_path / "log.txt").read_text()


def test_every_side_gives_a_figure_before_one_gives_its_second(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []

    def side(name: str, count: int) -> Iterator[tuple[str, float]]:
        for number in range(count):
            order.append(f"{name}{number}")
            yield "stage", number
        if count == 1:
            raise PeerUnavailable("gone")

    found = in_turn({"a": side("a", 3), "b": side("b", 1)})
    assert order == ["a0", "b0", "a1", "a2"]
    assert found == {"a": {"stage": [0, 1, 2]}, "b": {"stage": [0]}}
    assert "b done gone" in capsys.readouterr().out
