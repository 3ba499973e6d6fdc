"""Two processes that train together take the same step, and end together."""

import multiprocessing
from pathlib import Path

import torch
from torch import nn

from infra.demo_model.data_parallel import Pair, join


def gradient(meeting: str, rank: int, ending: bool, found: "multiprocessing.Queue[tuple[list[float], bool]]") -> None:
    weight = nn.Parameter(torch.zeros(2))
    unused = nn.Parameter(torch.zeros(1))
    (weight * torch.tensor([1.0, 2.0 + rank])).sum().backward()  # type: ignore[no-untyped-call]
    pair = join(meeting, rank, 2)
    ends = pair.average([weight, unused], ending=ending)
    assert weight.grad is not None
    assert unused.grad is not None
    found.put(([*weight.grad.tolist(), *unused.grad.tolist()], ends))
    pair.wait()


def test_both_take_the_averaged_gradient_and_end_when_one_is_asked_to(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    found = spawn.Queue()
    meeting = str(tmp_path / "meeting")
    both = [spawn.Process(target=gradient, args=(meeting, rank, rank == 0, found)) for rank in range(2)]
    for process in both:
        process.start()
    results = [found.get(timeout=60) for _ in both]
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    assert results == [([1.0, 2.5, 0.0], True)] * 2


def test_alone_gradients_stay_as_they_are() -> None:
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    assert not Pair().average([weight], ending=False)
    assert weight.grad.item() == 1
