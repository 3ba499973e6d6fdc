"""What the runner counts of what it computes."""

from typing import Any
from unittest.mock import Mock

import torch

from tests.unit.vision.engine.test_scheduler import sequence
from workers.vision.engine.model_runner import ModelRunner
from workers.vision.engine.schedule import Chunk, TileWork


def runner(*, pads: bool) -> ModelRunner:
    model: Any = Mock()
    model.decoder.pads_answers = pads
    model.encoder.encode = lambda tiles: torch.zeros(len(tiles), 4)
    model.encoder.device = torch.device("cpu")
    return ModelRunner(model, Mock(), torch.zeros(3, dtype=torch.int64))


def answer(context: int) -> Chunk:
    """The row of a running answer at the end of `context` tokens."""
    running = sequence(text=context)
    running.branch.computed, running.branch.pages = context - 1, list(range(-(-context // 16)))
    return Chunk(running, running.branch, context - 1, 1)


def test_answers_padded_to_the_longest_are_counted_as_padding() -> None:
    padding = runner(pads=True)
    padding.forward([answer(20), answer(40)])
    assert padding.computed["rows", "wanted"] == 2
    assert padding.computed["positions", "wanted"] == 60
    assert padding.computed["positions", "padding"] == 2 * 48 - 60


def test_a_kernel_that_reads_each_context_alone_pads_nothing() -> None:
    exact = runner(pads=False)
    exact.forward([answer(20), answer(40)])
    assert exact.computed["positions", "padding"] == 0


def test_tiles_are_counted() -> None:
    counting = runner(pads=False)
    asked = sequence(tiles=2)
    counting.encode([TileWork(asked, 0), TileWork(asked, 1)])
    assert counting.computed["tiles", "wanted"] == 2
