"""`python -m tests.bench.schedule`: how busy the engine's own loop keeps a device as fast as an H200 (`simulated_gpu`).

Scheduler, pages, packing, sampling and text are the engine's. `--plain` reads each step's tokens at once, as before.
"""

import argparse
import time

import numpy as np

from tests.bench.figures import at_least
from tests.bench.simulated_gpu import CONFIG, ROW_S, TILE_S, TOKENIZER, SimulatedRunner
from workers.vision.bench.goals import JOBS_PER_SECOND
from workers.vision.engine.base import EngineRequest, Sampling
from workers.vision.engine.core import EngineCore, Parts
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.prompts import IMAGE_CONTEXT, ImageSpan, Prompt


def main() -> None:
    """Print jobs a second and the device's share of the time, by tiles of a job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 7, 13, 41])
    parser.add_argument("--plain", action="store_true", help="without graphs and pipelining")
    chosen = parser.parse_args()
    print(
        f"| tiles | {chosen.jobs} jobs, {chosen.new} tokens: s | jobs/s | goal | device busy |\n|---|---|---|---|---|"
    )
    for tiles in chosen.tiles:
        seconds, busy = served(chosen.jobs, tiles, chosen.new, fast=not chosen.plain)
        rate = chosen.jobs / seconds
        if chosen.jobs == 64 and chosen.new == 128 and tiles in JOBS_PER_SECOND:
            at_least(f"64 jobs of {tiles} tiles on a simulated H200", rate, JOBS_PER_SECOND[tiles], "jobs/s")
        print(f"| {tiles} | {seconds:.2f} | {rate:.1f} | {JOBS_PER_SECOND.get(tiles, 0):g} | {100 * busy:.0f} % |")


def served(jobs: int, tiles: int, new: int, *, fast: bool) -> tuple[float, float]:
    """Seconds that the jobs take together, and the device's share of them."""
    runner = SimulatedRunner(jobs, graphs=fast)
    budget = StepBudget(4096, 16, pause_s=0.1, longest_s=5.0, row_s=ROW_S, tile_s=TILE_S)
    pages = jobs * (tiles * CONFIG.tokens_per_tile + 400) // PAGE_TOKENS
    parts = Parts(runner, CONFIG, TOKENIZER, pages, 1 << 30, jobs, budget, pipelined=fast)
    core = EngineCore(parts, lambda *_: None, lambda: None)
    for number in range(jobs):
        core.add(core.prepare(RequestHandle(_request(number, tiles, new)), number))
    began = time.perf_counter()
    while core.busy:
        core.step()
    seconds = time.perf_counter() - began
    return seconds, runner.line.busy_s / seconds


def _request(number: int, tiles: int, new: int) -> EngineRequest:
    drawn = np.random.default_rng(number)
    places = tiles * CONFIG.tokens_per_tile
    ids = [*drawn.integers(300, 400, 30).tolist(), *[TOKENIZER.token_id(IMAGE_CONTEXT)] * places, 300]
    spans = (ImageSpan(30, places, tiles),)
    pixels = drawn.integers(0, 256, (tiles, 28, 28, 3), np.uint8)  # hashed before the clock starts; small ones do
    return EngineRequest(str(number), Prompt(ids, spans, ""), pixels, Sampling(max_new_tokens=new))


if __name__ == "__main__":
    main()
