"""`python -m tests.bench.host`: what a step costs beside the model: scheduling, packing, sampling, handing out text.

The engine's own loop over a model that does nothing, so all of the time is the host's.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch

from tests.bench.figures import at_most
from tests.bench.random_model import MINI, shapes
from workers.vision.engine.base import EngineRequest, Sampling
from workers.vision.engine.core import EngineCore, Parts
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.model_runner import pack
from workers.vision.engine.scheduler import Limits
from workers.vision.engine.step_budget import StepBudget
from workers.vision.prompts import Prompt

VOCAB = 512  # what arg-max takes over more is the device's time


class Nothing:
    """A runner whose device is infinitely fast; the batch is packed all the same."""

    def forward(self, chunks: list[Any]) -> torch.Tensor:
        """Logits that always say the same token."""
        logits = torch.zeros(len(pack(chunks).wanted), VOCAB)
        logits[:, 100] = 1
        return logits


def main() -> None:
    """Print milliseconds of a decode step by number of sequences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompt", type=int, default=1852)
    parser.add_argument("--steps", type=int, default=60)
    chosen = parser.parse_args()
    config, tokenizer = shapes(MINI)
    for sequences in (1, 2, 4, 8, 16, 32, 64):
        pages = sequences * (chosen.prompt + 1000) // 16
        limits, budget = Limits(sequences, 100), StepBudget(1 << 20, 8, 1e9, 1e9, 1e-9, 1e-9)
        runner: Any = Nothing()
        parts = Parts(runner, config, tokenizer, pages, 0, limits, budget)
        core = EngineCore(parts, lambda *_: None, lambda: None)
        for number in range(sequences):
            ids = np.random.default_rng(number).integers(300, 400, chosen.prompt).tolist()
            request = EngineRequest(
                str(number), Prompt(ids, (), ""), np.zeros((0, 448, 448, 3), np.uint8), Sampling(max_new_tokens=900)
            )
            core.add(core.sequence(RequestHandle(request), number))
        core.step()
        taken = []
        for _ in range(chosen.steps):
            began = time.perf_counter()
            core.step()
            taken.append(time.perf_counter() - began)
        best, median = 1000 * min(taken), 1000 * sorted(taken)[len(taken) // 2]
        if sequences == 64:
            at_most("host's part of a decode step, 64 sequences, p50", median, 1, "ms")
        print(f"{sequences:3} sequences: {best:.2f} ms at best, {median:.2f} median")


if __name__ == "__main__":
    main()
