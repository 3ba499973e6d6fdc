"""Two processes that train together take the same step, and end together."""

import multiprocessing
from pathlib import Path

import torch
from torch import nn

from infra.demo_model.data_parallel import DataParallelGroup, join_ranks


def gradient(
    rendezvous: str, rank: int, stop_requested: bool, results_queue: "multiprocessing.Queue[tuple[list[float], bool]]"
) -> None:
    weight = nn.Parameter(torch.zeros(2))
    unused = nn.Parameter(torch.zeros(1))
    (weight * torch.tensor([1.0, 2.0 + rank])).sum().backward()  # type: ignore[no-untyped-call]
    process_group = join_ranks(rendezvous, rank, 2)
    ends = process_group.average_gradients([weight, unused], stop_requested=stop_requested)
    assert weight.grad is not None
    assert unused.grad is not None
    results_queue.put(([*weight.grad.tolist(), *unused.grad.tolist()], ends))
    process_group.barrier()


def test_both_take_the_averaged_gradient_and_end_when_one_is_asked_to(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    results_queue = spawn.Queue()
    rendezvous = str(tmp_path / "meeting")
    both = [spawn.Process(target=gradient, args=(rendezvous, rank, rank == 0, results_queue)) for rank in range(2)]
    for process in both:
        process.start()
    results = [results_queue.get(timeout=60) for _ in both]
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    assert results == [([1.0, 2.5, 0.0], True)] * 2


def test_alone_gradients_stay_as_they_are() -> None:
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    assert not DataParallelGroup().average_gradients([weight], stop_requested=False)
    assert weight.grad.item() == 1
