"""One of tileq's engines under measurement: the requests of each stage, and what they took."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from tests.bench.engine_peers import stages
from tests.bench.engine_peers.stages import NEW, SIDE, TEXT, TILE_TOKENS
from workers.vision.engine.base import Done, Engine, EngineRequest, Sampling
from workers.vision.prompts import ImageSpan, Prompt

Taken = dict[str, list[float]]  #: figures by stage, one of each round


@dataclass
class MeasuredEngine:
    """One engine under measurement."""

    engine: Engine
    image_token: int
    taken: Taken = field(default_factory=dict)
    _serial: int = 0

    def note(self, stage: str, value: float) -> None:
        """Keep a figure."""
        self.taken.setdefault(stage, []).append(value)

    def request(
        self, tiles: int, new: int, *, image: int | None = None, question: int = 0, text: int = TEXT
    ) -> EngineRequest:
        """A question about an image that was never seen before, or about a named one, after `text` tokens."""
        self._serial += 1
        seed = self._serial if image is None else 1_000_000 + image
        drawn = np.random.default_rng(seed)
        pixels = drawn.integers(0, 256, (tiles, SIDE, SIDE, 3), np.uint8)
        # Ids of plain text, other ones for each image, so that nothing is found in a cache by chance.
        before, after = drawn.integers(300, 400, text), np.random.default_rng(question).integers(300, 400, TEXT)
        ids = [*before.tolist(), *[self.image_token] * (tiles * TILE_TOKENS), *after.tolist()]
        spans = (ImageSpan(text, tiles * TILE_TOKENS, tiles),) if tiles else ()
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
        self.note(stages.vision(tiles), done.timings["vision"])
        self.note(stages.prefill(done.prompt_tokens), done.prompt_tokens / prefill)
        self.note(stages.decode(done.prompt_tokens), (done.completion_tokens - 1) / done.timings["decode"])

    def together(self, requests: int) -> None:
        """Several at once, of one tile each."""
        self.note(stages.together(requests), self._seconds([self.request(1, NEW) for _ in range(requests)]))

    def together_text(self, requests: int) -> None:
        """The same without images, as a peer without a tower serves them."""
        text = stages.prompt_tokens(1) - TEXT
        seconds = self._seconds([self.request(0, NEW, text=text) for _ in range(requests)])
        self.note(stages.together_text(requests), seconds)

    def decode_together(self, requests: int) -> None:
        """Decoding of several, by the difference between long answers and short ones to prompts of one length."""
        short, long = (
            self._seconds([self.request(0, new, image=1000 * new + number) for number in range(requests)])
            for new in (8, 8 + NEW)
        )
        self.note(stages.decode_together(requests), requests * NEW / (long - short))

    def _seconds(self, asked: list[EngineRequest]) -> float:
        """Of answering all of them."""
        began = time.perf_counter()
        with ThreadPoolExecutor(len(asked)) as threads:
            list(threads.map(self.ask, asked))
        return time.perf_counter() - began

    def second_round(self, tiles: int) -> None:
        """Another question about an image: time to its first token."""
        first = self.ask(self.request(tiles, 4, image=tiles, question=1))
        second = self.ask(self.request(tiles, 4, image=tiles, question=2))
        self.note(f"first question about {tiles} tiles, first token: s", first.timings["first_token"])
        self.note(stages.second_round(tiles), second.timings["first_token"])
