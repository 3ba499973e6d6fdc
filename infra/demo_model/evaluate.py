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
    TWO_IMAGES_PREFIX,
    Conversation,
    about_one,
    about_page,
    about_two,
    build_conversation,
    choose_chinese,
    random_drawing,
)
from infra.demo_model.export import BUNDLED
from infra.demo_model.questions import ask_number, ask_positions, ask_shapes
from infra.demo_model.render import ImageArray, Rng
from infra.demo_model.scenes import number_scene, page_scene, shapes_scene
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.engine.base import Done, EngineRequest, Sampling, Tiles
from workers.vision.engine.transformers import Loaded, TransformersEngine
from workers.vision.images.decode import plan_tiles, write_tiles
from workers.vision.model.loader import LoadOptions, load
from workers.vision.prompts import PromptFormat, build

DrawQuestion = Callable[[Rng], tuple[list[ImageArray], Conversation]]


@dataclass(frozen=True)
class EvaluatedAnswer:
    """One question and what came back."""

    group: str
    question: str
    expected: str
    answer: str
    seconds: float


def draw_shapes(rng: Rng) -> tuple[list[ImageArray], Conversation]:
    """Which shape, what colour, how many."""
    scene = shapes_scene(rng)
    return [scene.image], build_conversation([ask_shapes(rng, scene, choose_chinese(rng))])


def draw_positions(rng: Rng) -> tuple[list[ImageArray], Conversation]:
    """Leftmost, rightmost, topmost, lowest; a caption from left to right."""
    scene = shapes_scene(rng)
    return [scene.image], build_conversation([ask_positions(rng, scene, choose_chinese(rng))])


def draw_numbers(rng: Rng) -> tuple[list[ImageArray], Conversation]:
    """A printed number, in every third picture or so beside shapes."""
    scene = number_scene(rng, shapes=3 if rng.random() < 0.4 else 0)
    return [scene.image], build_conversation([ask_number(rng, scene, choose_chinese(rng))])


def draw_page(rng: Rng) -> tuple[list[ImageArray], Conversation]:
    """One field of a page."""
    scene = page_scene(rng)
    return [scene.image], about_page(rng, scene, 1)


def draw_turns(rng: Rng) -> tuple[list[ImageArray], Conversation]:
    """A second round about the same picture, or one of two pictures, each half of the time."""
    if rng.random() < 0.5:
        scene = random_drawing(rng)
        return [scene.image], about_one(rng, scene, 2)
    first, second = random_drawing(rng), random_drawing(rng)
    prefix = TWO_IMAGES_PREFIX if rng.random() < 0.5 else ""
    return [first.image, second.image], about_two(rng, first, second, prefix)


GROUPS: tuple[tuple[str, DrawQuestion, int, int], ...] = (  # name, pictures and question, tiles, stream
    ("shapes", draw_shapes, 12, 0),
    ("positions", draw_positions, 12, 1),
    ("numbers", draw_numbers, 12, 2),
    ("page12", draw_page, 12, 3),
    ("page1", draw_page, 1, 3),
    ("rounds", draw_turns, 12, 4),
)


class InferencePipeline:
    """The checkpoint in a folder, asked as the worker asks it."""

    def __init__(self, folder: Path, dtype: str = "auto") -> None:
        checkpoint = open_checkpoint(folder)
        self.side, self.prompt_format = checkpoint.config.vision.image, checkpoint.prompt_format
        model = load(checkpoint, LoadOptions("cpu", dtype), print)
        self.engine = TransformersEngine(Loaded(model, checkpoint.config, checkpoint.tokenizer))

    def tiles(self, image: ImageArray, max_tiles: int) -> Tiles:
        """Cut a picture as the sandbox does."""
        plan = plan_tiles(Image.fromarray(image), max_tiles, True, self.side)
        return write_tiles(plan, self.side, lambda size: memoryview(bytearray(size)))

    def answer(self, images: list[ImageArray], conversation: Conversation, max_tiles: int) -> str:
        """Return what the model says."""
        tiles = [self.tiles(p, max_tiles) for p in images]
        prompt = build(conversation.messages, [len(c) for c in tiles], self.style_of())
        request = EngineRequest("evaluate", prompt, np.concatenate(tiles), Sampling(max_new_tokens=40))
        return next(e.text for e in self.engine.submit(request) if isinstance(e, Done))

    def style_of(self) -> PromptFormat:
        """Return how the model's prompts are written."""
        return self.prompt_format


def evaluate(pipeline: InferencePipeline, stream: Callable[[int, int], Rng], count: int) -> Iterator[EvaluatedAnswer]:
    """Ask `count` questions of each group; `stream` gives the randomness of one question of one group."""
    for group, draw_one, max_tiles, stream_key in GROUPS:
        for i in range(count):
            images, conversation = draw_one(stream(stream_key, i))
            began = time.perf_counter()
            answer = pipeline.answer(images, conversation, max_tiles)
            yield EvaluatedAnswer(
                group, conversation.messages[-1].content, conversation.answer, answer, time.perf_counter() - began
            )


def format_table(answers: list[EvaluatedAnswer]) -> str:
    """Return the figures, the agreed line last."""
    lines = ["group      questions  right  seconds each"]
    share: dict[str, float] = {}
    for group, *_ in GROUPS:
        mine = [a for a in answers if a.group == group]
        share[group] = 100 * sum(a.answer == a.expected for a in mine) / len(mine)
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
    pipeline = InferencePipeline(arguments.checkpoint, arguments.dtype)
    answers = []
    for answered in evaluate(
        pipeline, lambda stream_key, i: seeds.evaluate(arguments.seed, stream_key, i), arguments.count
    ):
        answers.append(answered)
        if arguments.wrong and answered.answer != answered.expected:
            print(
                f"{answered.group}: {answered.question!r} -> {answered.answer!r}, not {answered.expected!r}", flush=True
            )
    pipeline.engine.close()
    print(format_table(answers))


if __name__ == "__main__":
    main()
