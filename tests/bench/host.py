"""`python -m tests.bench.host`: what a step costs beside the model: scheduling, packing, sampling, handing out text.

The engine's own loop over a model that does nothing, so all of the time is the host's: with decoding steps out of
static buffers, as on a GPU, and with packed rows, as on a CPU.
"""

import argparse
import time

import numpy as np
import torch

from tests.bench.simulated_gpu import CONFIG, TOKENIZER, SimulatedRunner
from workers.vision.engine.base import EngineRequest, Sampling
from workers.vision.engine.core import EngineCore, Parts
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.step_budget import StepBudget
from workers.vision.prompts import Prompt

COUNTS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    """Print milliseconds of a decode step by number of sequences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompt", type=int, default=1852)
    parser.add_argument("--steps", type=int, default=60)
    chosen = parser.parse_args()
    for sequences in COUNTS:
        gpu, packed = (step_ms(sequences, chosen.prompt, chosen.steps, graphs=graphs) for graphs in (True, False))
        print(f"{sequences:3} sequences: {gpu[0]:.2f} ms at best, {gpu[1]:.2f} median; packed {packed[1]:.2f}")


@torch.inference_mode()
def step_ms(sequences: int, prompt: int, steps: int, *, graphs: bool) -> tuple[float, float]:
    """Milliseconds of a step in which each of `sequences` has a row, at best and in the median."""
    pages = sequences * (prompt + 1000) // 16
    budget = StepBudget(1 << 20, 8, 1e9, 1e9, 1e-9, 1e-9)
    runner = SimulatedRunner(sequences, graphs=graphs, speed=1e9)
    parts = Parts(runner, CONFIG, TOKENIZER, pages, 0, sequences, budget, pipelined=graphs)
    core = EngineCore(parts, lambda *_: None, lambda: None)
    for number in range(sequences):
        ids = np.random.default_rng(number).integers(300, 400, prompt).tolist()
        none = np.zeros((0, 448, 448, 3), np.uint8)
        request = EngineRequest(str(number), Prompt(ids, (), ""), none, Sampling(max_new_tokens=900))
        core.add(core.prepare(RequestHandle(request), number))
    core.step()
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        core.step()
        taken.append(1000 * (time.perf_counter() - began))
    return min(taken), sorted(taken)[len(taken) // 2]


if __name__ == "__main__":
    main()
