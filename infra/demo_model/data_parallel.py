"""Data-parallel training in one process per core: each rank computes its part of a step, gradients are averaged.

All ranks hold the same weights and optimiser states, since all apply the same averaged gradients. Two processes of
one thread take 0.73 s for a step on crops, one process of two threads 0.9 s: the tensors are small.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

COLLECTIVE_TIMEOUT = timedelta(days=1)  # ranks wait this long for one that is paused with SIGSTOP
RANK_VARIABLE, RENDEZVOUS_VARIABLE = "TILEQ_TRAIN_RANK", "TILEQ_TRAIN_RENDEZVOUS"


@dataclass(frozen=True)
class DataParallelGroup:
    """The processes that train together, seen from the one of `rank`; by default this process alone."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Return whether this process writes the log and saves the state."""
        return self.rank == 0

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter], *, stop_requested: bool) -> bool:
        """Average the gradients over all ranks, in place; return whether a stop is requested of any rank.

        A parameter without a gradient counts as one of zeros.
        """
        if self.world_size == 1:
            return stop_requested
        trained = [p for p in parameters if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([*(g.flatten() for g in grads), torch.tensor([float(stop_requested)])])
        dist.all_reduce(flat)
        averages = torch.split(flat[:-1] / self.world_size, [p.numel() for p in trained])
        for p, average in zip(trained, averages, strict=True):
            p.grad = average.view_as(p)
        return bool(flat[-1] > 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


SINGLE_PROCESS = DataParallelGroup()


def join_group(rendezvous: str, rank: int, world_size: int) -> DataParallelGroup:
    """Join the `world_size` ranks that meet at the file `rendezvous`; returns when all are there."""
    dist.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size, timeout=COLLECTIVE_TIMEOUT
    )
    return DataParallelGroup(rank, world_size)


def launch_group(folder: Path, world_size: int = 2) -> DataParallelGroup:
    """Start the other ranks from rank 0, whose rendezvous file lies in `folder`; join the group from every rank."""
    rank = int(os.environ.get(RANK_VARIABLE, "0"))
    rendezvous = os.environ.get(RENDEZVOUS_VARIABLE) or str(folder / f".rendezvous-{os.getpid()}")
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        for other in range(1, world_size):
            # in its own session: Ctrl-C reaches rank 0 alone, which stops the others at the end of a step
            subprocess.Popen(
                [sys.executable, "-m", "infra.demo_model.train"],
                env=os.environ | {RANK_VARIABLE: str(other), RENDEZVOUS_VARIABLE: rendezvous},
                start_new_session=True,
            )
    return join_group(rendezvous, rank, world_size)
