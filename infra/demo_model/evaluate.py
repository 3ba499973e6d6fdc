"""Ask the demo checkpoint questions it has never met: `python -m infra.demo_model.evaluate --seed 7`.

Pictures are drawn from the seed alone, cut into tiles and asked about by the code of the vision worker. An answer
counts if it is exactly the right one. page12 and page1 ask the same questions of the same pages, with up to 12 tiles
and with one.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from infra.demo_model import seeds
from infra.demo_model.conversations import (
    PAIR,
    Conversation,
    about_one,
    about_page,
    about_two,
    converse,
    draw,
    language,
)
from infra.demo_model.export import BUNDLED
from infra.demo_model.questions import ask_number, ask_positions, ask_shapes
from infra.demo_model.render import Picture, Rng
from infra.demo_model.scenes import number_scene, page_scene, shapes_scene
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.engine.base import Done, EngineRequest, Sampling, Tiles
from workers.vision.engine.transformers import Loaded, TransformersEngine
from workers.vision.images.decode import plan_tiles, write_tiles
from workers.vision.model.loader import LoadOptions, load
from workers.vision.prompts import PromptFormat, build

Draw = Callable[[Rng], tuple[list[Picture], Conversation]]


@dataclass(frozen=True)
class Answered:
    """One question and what came back."""

    group: str
    asked: str
    wanted: str
    said: str
    seconds: float


def shapes(rng: Rng) -> tuple[list[Picture], Conversation]:
    """Which shape, what colour, how many."""
    scene = shapes_scene(rng)
    return [scene.picture], converse([ask_shapes(rng, scene, language(rng))])


def positions(rng: Rng) -> tuple[list[Picture], Conversation]:
    """Leftmost, rightmost, topmost, lowest; a caption from left to right."""
    scene = shapes_scene(rng)
    return [scene.picture], converse([ask_positions(rng, scene, language(rng))])


def numbers(rng: Rng) -> tuple[list[Picture], Conversation]:
    """A printed number, in every third picture or so beside shapes."""
    scene = number_scene(rng, shapes=3 if rng.random() < 0.4 else 0)
    return [scene.picture], converse([ask_number(rng, scene, language(rng))])


def page(rng: Rng) -> tuple[list[Picture], Conversation]:
    """One field of a page."""
    scene = page_scene(rng)
    return [scene.picture], about_page(rng, scene, 1)


def rounds(rng: Rng) -> tuple[list[Picture], Conversation]:
    """A second round about the same picture, or one of two pictures, each half of the time."""
    if rng.random() < 0.5:
        scene = draw(rng)
        return [scene.picture], about_one(rng, scene, 2)
    first, second = draw(rng), draw(rng)
    opening = PAIR if rng.random() < 0.5 else ""
    return [first.picture, second.picture], about_two(rng, first, second, opening)


GROUPS: tuple[tuple[str, Draw, int, int], ...] = (  # name, pictures and question, tiles, stream
    ("shapes", shapes, 12, 0),
    ("positions", positions, 12, 1),
    ("numbers", numbers, 12, 2),
    ("page12", page, 12, 3),
    ("page1", page, 1, 3),
    ("rounds", rounds, 12, 4),
)


class Asker:
    """The checkpoint in a folder, asked as the worker asks it."""

    def __init__(self, folder: Path, dtype: str = "auto") -> None:
        checkpoint = open_checkpoint(folder)
        self.side, self.style = checkpoint.config.vision.image, checkpoint.prompt_format
        model = load(checkpoint, LoadOptions("cpu", dtype), print)
        self.engine = TransformersEngine(Loaded(model, checkpoint.config, checkpoint.tokenizer))

    def tiles(self, picture: Picture, most: int) -> Tiles:
        """Cut a picture as the sandbox does."""
        plan = plan_tiles(Image.fromarray(picture), most, True, self.side)
        return write_tiles(plan, self.side, lambda size: memoryview(bytearray(size)))

    def answer(self, pictures: list[Picture], talk: Conversation, most: int) -> str:
        """Return what the model says."""
        cuts = [self.tiles(p, most) for p in pictures]
        prompt = build(talk.messages, [len(c) for c in cuts], self.style_of())
        request = EngineRequest("evaluate", prompt, np.concatenate(cuts), Sampling(max_new_tokens=40))
        return next(e.text for e in self.engine.submit(request) if isinstance(e, Done))

    def style_of(self) -> PromptFormat:
        """Return how the model's prompts are written."""
        return self.style


def ask(asker: Asker, stream: Callable[[int, int], Rng], count: int) -> Iterator[Answered]:
    """Ask `count` questions of each group; `stream` gives the randomness of one question of one group."""
    for group, draw_one, most, part in GROUPS:
        for i in range(count):
            pictures, talk = draw_one(stream(part, i))
            began = time.perf_counter()
            said = asker.answer(pictures, talk, most)
            yield Answered(group, talk.messages[-1].content, talk.answer, said, time.perf_counter() - began)


def table(answers: list[Answered]) -> str:
    """Return the figures, the agreed line last."""
    lines = ["group      questions  right  seconds each"]
    share: dict[str, float] = {}
    for group, *_ in GROUPS:
        mine = [a for a in answers if a.group == group]
        share[group] = 100 * sum(a.said == a.wanted for a in mine) / len(mine)
        lines.append(f"{group:10} {len(mine):9} {share[group]:5.1f}% {sum(a.seconds for a in mine) / len(mine):9.2f}")
    return "\n".join([*lines, "evaluate: " + " ".join(f"{group} {figure:.1f}" for group, figure in share.items())])


def main() -> None:
    """Evaluate the bundled checkpoint, or another."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=300, help="questions of each group")
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    parser.add_argument("--dtype", default="auto", help="auto is what the worker would choose here")
    parser.add_argument("--wrong", action="store_true", help="show every wrong answer")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    asker = Asker(arguments.checkpoint, arguments.dtype)
    answers = []
    for answered in ask(asker, lambda part, i: seeds.evaluate(arguments.seed, part, i), arguments.count):
        answers.append(answered)
        if arguments.wrong and answered.said != answered.wanted:
            print(f"{answered.group}: {answered.asked!r} -> {answered.said!r}, not {answered.wanted!r}", flush=True)
    asker.engine.close()
    print(table(answers))


if __name__ == "__main__":
    main()
