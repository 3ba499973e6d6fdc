"""Requests that no cache has seen, and what an engine takes for them."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np

from workers.vision.checkpoint.config import Config
from workers.vision.engine.base import Done, Engine, EngineRequest, Sampling
from workers.vision.prompts import ImageSpan, Prompt

TEXT_TOKENS = 30  #: of a prompt beside its tiles
PLAIN_IDS = 300, 400  # of plain text in every vocabulary of the family


@dataclass(frozen=True)
class Taken:
    """What answering some jobs took."""

    jobs: int
    seconds: float
    generated: int  #: tokens of all answers
    decode_s: float  #: of the first answer, from its first token

    @property
    def jobs_per_second(self) -> float:
        """The throughput."""
        return self.jobs / self.seconds

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of an answer that was alone."""
        return (self.generated - 1) / self.decode_s


class Requests:
    """Greedy requests about images of noise, each seen once."""

    def __init__(self, config: Config, image_token: int) -> None:
        self._config, self._image_token = config, image_token
        self._seeds = count()

    def fits(self, tiles: int, new: int) -> bool:
        """Whether the model's context holds such a request with its answer."""
        return TEXT_TOKENS + tiles * self._config.tokens_per_tile + new < self._config.context

    def one(self, tiles: int, new: int) -> EngineRequest:
        """A request of one image."""
        seed, side = next(self._seeds), self._config.vision.image
        drawn = np.random.default_rng(seed)
        pixels = np.frombuffer(drawn.bytes(tiles * side * side * 3), np.uint8).reshape(tiles, side, side, 3)
        places = tiles * self._config.tokens_per_tile
        ids = [*drawn.integers(*PLAIN_IDS, TEXT_TOKENS).tolist(), *[self._image_token] * places]
        spans = (ImageSpan(TEXT_TOKENS, places, tiles),)
        return EngineRequest(str(seed), Prompt(ids, spans, ""), pixels, Sampling(max_new_tokens=new))


def serve(engine: Engine, requests: list[EngineRequest]) -> Taken:
    """Ask all at once and wait for the answers. Raises what the engine raises."""
    began = time.perf_counter()
    with ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(lambda request: _answer(engine, request), requests))
    seconds = time.perf_counter() - began
    return Taken(len(answers), seconds, sum(done.completion_tokens for done in answers), answers[0].timings["decode"])


def _answer(engine: Engine, request: EngineRequest) -> Done:
    *_, done = engine.submit(request)
    assert isinstance(done, Done)  # noqa: S101 - the last event of a request that raised nothing
    return done
