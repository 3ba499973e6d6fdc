"""Ranks that train together take the same step, and stop together."""

import multiprocessing
from pathlib import Path

import torch
from torch import nn

from infra.demo_model.data_parallel import SINGLE_PROCESS, join_group


def average_in_group(
    rendezvous: str, rank: int, stop_requested: bool, results: "multiprocessing.Queue[tuple[list[float], bool]]"
) -> None:
    weight, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    (weight * torch.tensor([1.0, 2.0 + rank])).sum().backward()  # type: ignore[no-untyped-call]
    group = join_group(rendezvous, rank, 2)
    stops = group.average_gradients([weight, unused], stop_requested=stop_requested)
    assert weight.grad is not None
    assert unused.grad is not None
    results.put(([*weight.grad.tolist(), *unused.grad.tolist()], stops))
    group.barrier()


def test_all_ranks_take_the_averaged_gradient_and_stop_when_one_has_to(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    rendezvous = str(tmp_path / "rendezvous")
    ranks = [spawn.Process(target=average_in_group, args=(rendezvous, rank, rank == 0, results)) for rank in range(2)]
    for process in ranks:
        process.start()
    averaged = [results.get(timeout=60) for _ in ranks]
    for process in ranks:
        process.join(30)
        assert process.exitcode == 0
    assert averaged == [([1.0, 2.5, 0.0], True)] * 2


def test_a_single_process_keeps_its_gradients() -> None:
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    assert not SINGLE_PROCESS.average_gradients([weight], stop_requested=False)
    assert weight.grad.item() == 1
