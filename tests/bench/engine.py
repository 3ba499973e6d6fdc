"""`make bench-engine`: what the engines take for vision, prefill, decoding, many requests and second rounds.

Mini's shapes with random weights, both engines over the same ones, one after the other in one process. The figures
depend on the machine and on what else runs on it: the load is printed beside them.

    python -m tests.bench.engine --only resident --quantise int8      one side alone, quantised
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch

from tests.bench.random_model import MINI, Kind, make_engine, shapes
from workers.vision.engine.base import Done, Engine, EngineRequest, Sampling
from workers.vision.prompts import IMAGE_CONTEXT, ImageSpan, Prompt

TILE_TOKENS, SIDE = 256, 448
TEXT = 30  # tokens before and after the image
NEW = 64


@dataclass
class Bench:
    """One engine under measurement."""

    engine: Engine
    image_token: int
    taken: dict[str, list[float]] = field(default_factory=dict)
    _serial: int = 0

    def note(self, stage: str, value: float) -> None:
        """Keep a figure."""
        self.taken.setdefault(stage, []).append(value)

    def request(self, tiles: int, new: int, *, image: int | None = None, question: int = 0) -> EngineRequest:
        """A question about an image that was never seen before, or about a named one."""
        self._serial += 1
        seed = self._serial if image is None else 1_000_000 + image
        drawn = np.random.default_rng(seed)
        pixels = drawn.integers(0, 256, (tiles, SIDE, SIDE, 3), np.uint8)
        # Ids of plain text, other ones for each image, so that nothing is found in a cache by chance.
        before, after = drawn.integers(300, 400, TEXT), np.random.default_rng(question).integers(300, 400, TEXT)
        ids = [*before.tolist(), *[self.image_token] * (tiles * TILE_TOKENS), *after.tolist()]
        spans = (ImageSpan(TEXT, tiles * TILE_TOKENS, tiles),) if tiles else ()
        return EngineRequest(str(self._serial), Prompt(ids, spans, ""), pixels, Sampling(max_new_tokens=new))

    def ask(self, request: EngineRequest) -> Done:
        """Follow a request to its end."""
        *_, done = self.engine.submit(request)
        assert isinstance(done, Done)
        return done

    def single(self, tiles: int, new: int = NEW) -> None:
        """One request alone."""
        done = self.ask(self.request(tiles, new))
        prefill = done.timings["first_token"] - done.timings["vision"]
        self.note(f"vision, {tiles} tiles: s", done.timings["vision"])
        self.note(f"prefill of {done.prompt_tokens}: tokens/s", done.prompt_tokens / prefill)
        self.note(f"decode after {done.prompt_tokens}: tokens/s", (done.completion_tokens - 1) / done.timings["decode"])

    def together(self, requests: int) -> None:
        """Several at once, of one tile each."""
        asked = [self.request(1, NEW) for _ in range(requests)]
        began = time.perf_counter()
        with ThreadPoolExecutor(requests) as threads:
            done = list(threads.map(self.ask, asked))
        seconds = time.perf_counter() - began
        self.note(f"{requests} requests of 1 tile, {NEW} new: s", seconds)
        tokens = sum(answer.completion_tokens for answer in done)
        self.note(f"{requests} requests of 1 tile, {NEW} new: tokens/s", tokens / seconds)

    def decode_together(self, requests: int) -> None:
        """Decoding of several, by the difference between long answers and short ones to prompts of one length."""
        seconds = []
        for new in (8, 8 + NEW):
            asked = [self.request(0, new, image=1000 * new + number) for number in range(requests)]
            began = time.perf_counter()
            with ThreadPoolExecutor(requests) as threads:
                list(threads.map(self.ask, asked))
            seconds.append(time.perf_counter() - began)
        self.note(f"decode of {requests} together: tokens/s", requests * NEW / (seconds[1] - seconds[0]))

    def second_round(self, tiles: int) -> None:
        """Another question about an image: time to its first token."""
        first = self.ask(self.request(tiles, 4, image=tiles, question=1))
        second = self.ask(self.request(tiles, 4, image=tiles, question=2))
        self.note(f"first question about {tiles} tiles, first token: s", first.timings["first_token"])
        self.note(f"second question about {tiles} tiles, first token: s", second.timings["first_token"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32", "float16"])
    parser.add_argument("--quantise", choices=["int8", "int4"], help="of the resident engine")
    parser.add_argument("--only", choices=["resident", "transformers"])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tiles", type=int, default=7, help="of the large image")
    chosen = parser.parse_args()
    kinds: Sequence[Kind] = [chosen.only] if chosen.only else ["transformers", "resident"]
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    found, image_token = {}, shapes(MINI)[1].token_id(IMAGE_CONTEXT)
    for kind in kinds:
        dtype = getattr(torch, chosen.dtype)
        engine = make_engine(kind, MINI, torch.device(chosen.device), dtype, chosen.quantise)
        found[kind] = measure(Bench(engine, image_token), chosen.requests, chosen.rounds, chosen.tiles)
        engine.close()
        print(f"{kind} done, load {os.getloadavg()[0]:.1f}")
    print("\n".join(table(found)))


def measure(bench: Bench, requests: int, rounds: int, tiles: int) -> dict[str, list[float]]:
    """Run every stage; the first single request warms up."""
    bench.ask(bench.request(1, 4))
    for _ in range(rounds):
        bench.single(1)
    bench.single(tiles, 16)
    bench.second_round(tiles)
    bench.together(requests)
    if bench.engine.slots > 1:
        for _ in range(rounds):
            bench.decode_together(requests)
    return bench.taken


def table(found: dict[Kind, dict[str, list[float]]]) -> Iterator[str]:
    """Markdown: the best of each stage, and all of them where there are several."""
    kinds = list(found)
    yield f"| stage | {' | '.join(kinds)} |"
    yield "|---" * (len(kinds) + 1) + "|"
    for stage in dict.fromkeys(stage for taken in found.values() for stage in taken):
        cells = [_cell(taken.get(stage, []), best=max if stage.endswith("/s") else min) for taken in found.values()]
        yield f"| {stage} | {' | '.join(cells)} |"


def _cell(values: list[float], best: Callable[[list[float]], float]) -> str:
    if not values:
        return "-"
    return f"{best(values):.2f}" + (f" ({', '.join(f'{value:.2f}' for value in values)})" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
