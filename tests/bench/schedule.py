"""`python -m tests.bench.schedule`: how busy the engine's own loop keeps a device as fast as an H200.

Scheduler, pages, packing, sampling and text are the engine's; the device only takes its time, computed from Mini's
shapes at half of an H200's arithmetic and 70 % of its bandwidth, without the attention within a prompt. No GPU is
measured here.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch

from tests.bench.figures import at_least
from tests.bench.host import VOCAB
from tests.bench.random_model import MINI, shapes
from tests.bench.simulated_device import JOBS_PER_SECOND
from workers.vision.engine.base import EngineRequest, Sampling
from workers.vision.engine.core import EngineCore, Parts
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.model_runner import pack
from workers.vision.engine.scheduler import Limits
from workers.vision.engine.step_allowance import decoder_layer_operations, vision_layer_operations
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.kv_pages import page_bytes
from workers.vision.model.packed_batch import PAGE_TOKENS
from workers.vision.prompts import IMAGE_CONTEXT, ImageSpan, Prompt

FLOPS, BYTES_PER_S = 989e12 / 2, 4.8e12 * 0.7
DECODER_BYTES = 3.78e9  # bf16
CONFIG, TOKENIZER = shapes(MINI)
TILE_S = CONFIG.used_layers * vision_layer_operations(CONFIG, 1) / FLOPS
ROW_S = CONFIG.decoder.layers * decoder_layer_operations(CONFIG, 1) / FLOPS
POSITION_S = page_bytes(CONFIG.decoder, torch.bfloat16) / PAGE_TOKENS / BYTES_PER_S


class SimulatedRunner:
    """Takes the device's time: arithmetic, or reading weights and contexts where that is more."""

    def __init__(self) -> None:
        self.busy_s = 0.0

    def encode(self, work: list[Any]) -> list[torch.Tensor]:
        """Features that say nothing."""
        self._wait(len(work) * TILE_S)
        return [torch.zeros(CONFIG.tokens_per_tile, 1) for _ in work]

    def forward(self, chunks: list[Any]) -> torch.Tensor:
        """Logits that always say the same token; packing is the host's, so it is not in the device's time."""
        batch = pack(chunks)
        read_s = DECODER_BYTES / BYTES_PER_S + sum(segment.context for segment in batch.segments) * POSITION_S
        self._wait(max(read_s, len(batch.ids) * ROW_S))
        logits = torch.zeros(len(batch.wanted), VOCAB)
        logits[:, 100] = 1
        return logits

    def _wait(self, seconds: float) -> None:
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:  # sleeping would be too coarse for a step of a millisecond
            pass
        self.busy_s += seconds


def main() -> None:
    """Print jobs a second and the device's share of the time, by tiles of a job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--new", type=int, default=128)
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 7, 13])
    chosen = parser.parse_args()
    print(f"| tiles | {chosen.jobs} jobs, {chosen.new} tokens: s | jobs/s | device busy |\n|---|---|---|---|")
    for tiles in chosen.tiles:
        runner: Any = SimulatedRunner()
        budget = StepBudget(4096, 16, pause_s=0.1, longest_s=5.0, row_s=ROW_S, tile_s=TILE_S)
        pages = chosen.jobs * (tiles * CONFIG.tokens_per_tile + 400) // PAGE_TOKENS
        parts = Parts(runner, CONFIG, TOKENIZER, pages, 1 << 30, Limits(chosen.jobs, 256), budget)
        core = EngineCore(parts, lambda *_: None, lambda: None)
        for number in range(chosen.jobs):
            core.add(core.sequence(RequestHandle(_request(number, tiles, chosen.new)), number))
        began = time.perf_counter()
        with torch.inference_mode():
            while core.busy:
                core.step()
        seconds = time.perf_counter() - began
        if chosen.jobs == 64 and tiles in JOBS_PER_SECOND:
            at_least(
                f"64 jobs of {tiles} tiles on a simulated H200", chosen.jobs / seconds, JOBS_PER_SECOND[tiles], "jobs/s"
            )
        print(f"| {tiles} | {seconds:.2f} | {chosen.jobs / seconds:.1f} | {100 * runner.busy_s / seconds:.0f} % |")


def _request(number: int, tiles: int, new: int) -> EngineRequest:
    drawn = np.random.default_rng(number)
    places = tiles * CONFIG.tokens_per_tile
    ids = [*drawn.integers(300, 400, 30).tolist(), *[TOKENIZER.token_id(IMAGE_CONTEXT)] * places, 300]
    spans = (ImageSpan(30, places, tiles),)
    pixels = drawn.integers(0, 256, (tiles, 28, 28, 3), np.uint8)  # hashed before the clock starts; small ones do
    return EngineRequest(str(number), Prompt(ids, spans, ""), pixels, Sampling(max_new_tokens=new))


if __name__ == "__main__":
    main()
