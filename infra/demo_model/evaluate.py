"""Evaluate the demo checkpoint on unseen questions: `python -m infra.demo_model.evaluate --seed 7`.

Images are drawn from the seed alone, tiled and answered by the code of the vision worker. An answer counts if it is
exactly the right one. page12 and page1 ask the same questions about the same pages, with up to 12 tiles and with one.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from infra.demo_model import seeds
from infra.demo_model.conversations import (
    TWO_IMAGES_PREFIX,
    Conversation,
    about_drawing,
    about_page,
    about_shapes,
    about_two_drawings,
    build_conversation,
    draw_zh,
)
from infra.demo_model.export import BUNDLED
from infra.demo_model.questions import ask_number, ask_positions
from infra.demo_model.render import ImageArray, Rng
from infra.demo_model.scenes import mixed_scene, number_scene, page_scene, shapes_scene
from workers.vision.checkpoint.checkpoint import open_checkpoint
from workers.vision.checkpoint.config import Quantised
from workers.vision.engine.assembly import resident_engine
from workers.vision.engine.base import Done, Engine, EngineRequest, Sampling, Tiles
from workers.vision.engine.transformers import Loaded, TransformersEngine
from workers.vision.images.decode import plan_tiles, write_tiles
from workers.vision.model.loader import LoadOptions, load, load_packed
from workers.vision.prompts import build

MAX_TILES = 12
MAX_NEW_TOKENS = 40
Sample = tuple[list[ImageArray], Conversation]


def draw_shapes(rng: Rng) -> Sample:
    """Ask which shape, which colour or how many."""
    scene = shapes_scene(rng)
    return [scene.image], about_shapes(rng, scene)


def draw_positions(rng: Rng) -> Sample:
    """Ask for the leftmost, rightmost, topmost or lowest shape, or for a caption from left to right."""
    scene = shapes_scene(rng)
    return [scene.image], build_conversation([ask_positions(rng, scene, draw_zh(rng))])


def draw_number(rng: Rng) -> Sample:
    """Ask for a printed number, beside shapes in about every third image."""
    scene = number_scene(rng, max_shapes=3 if rng.random() < 0.4 else 0)
    return [scene.image], build_conversation([ask_number(rng, scene, draw_zh(rng))])


def draw_page(rng: Rng) -> Sample:
    """Ask for one field of a page."""
    scene = page_scene(rng)
    return [scene.image], about_page(rng, scene, 1)


def draw_two_turns(rng: Rng) -> Sample:
    """Ask a second question about the same image, or about one of two images, each half of the time."""
    if rng.random() < 0.5:
        scene = mixed_scene(rng)
        return [scene.image], about_drawing(rng, scene, 2)
    first, second = mixed_scene(rng), mixed_scene(rng)
    prefix = TWO_IMAGES_PREFIX if rng.random() < 0.5 else ""
    return [first.image, second.image], about_two_drawings(rng, first, second, prefix)


class QuestionGroup(NamedTuple):
    """Questions of one kind; groups of the same stream ask the same questions."""

    name: str
    draw: Callable[[Rng], Sample]
    max_tiles: int
    stream: int


GROUPS = (
    QuestionGroup("shapes", draw_shapes, MAX_TILES, 0),
    QuestionGroup("positions", draw_positions, MAX_TILES, 1),
    QuestionGroup("numbers", draw_number, MAX_TILES, 2),
    QuestionGroup("page12", draw_page, MAX_TILES, 3),
    QuestionGroup("page1", draw_page, 1, 3),
    QuestionGroup("rounds", draw_two_turns, MAX_TILES, 4),
)


class InferencePipeline:
    """A checkpoint on the CPU, from images and messages to text, through the code of the vision worker."""

    def __init__(self, folder: Path, dtype: str = "auto", quantised: Quantised | None = None) -> None:
        checkpoint = open_checkpoint(folder)
        self.tile_px, self.prompt_format = checkpoint.config.vision.image, checkpoint.prompt_format
        options = LoadOptions("cpu", dtype, quantised)
        self.engine: Engine
        if quantised:
            packed = load_packed(checkpoint, options, print)
            self.engine = resident_engine(packed, checkpoint.config, checkpoint.tokenizer)
        else:
            loaded = Loaded(load(checkpoint, options, print), checkpoint.config, checkpoint.tokenizer)
            self.engine = TransformersEngine(loaded)

    def tile(self, image: ImageArray, max_tiles: int) -> Tiles:
        """Return the tiles of an image, (tiles, 448, 448, 3), uint8."""
        plan = plan_tiles(Image.fromarray(image), max_tiles, True, self.tile_px)
        return write_tiles(plan, self.tile_px, lambda size: memoryview(bytearray(size)))

    def answer(self, images: list[ImageArray], conversation: Conversation, max_tiles: int) -> str:
        """Return the model's answer to the last question."""
        tiles = [self.tile(image, max_tiles) for image in images]
        prompt = build(conversation.messages, [len(t) for t in tiles], self.prompt_format)
        request = EngineRequest("evaluate", prompt, np.concatenate(tiles), Sampling(max_new_tokens=MAX_NEW_TOKENS))
        return next(e.text for e in self.engine.submit(request) if isinstance(e, Done))

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()


@dataclass(frozen=True)
class EvaluatedAnswer:
    """One question of the evaluation and the model's answer."""

    group: str
    question: str
    expected: str
    answer: str
    seconds: float

    @property
    def is_right(self) -> bool:
        """Return whether the answer is exactly the expected one."""
        return self.answer == self.expected


def evaluate(pipeline: InferencePipeline, stream: Callable[[int, int], Rng], count: int) -> Iterator[EvaluatedAnswer]:
    """Ask `count` questions of each group; `stream` returns the random stream of (a group's stream, question)."""
    for group in GROUPS:
        for i in range(count):
            images, conversation = group.draw(stream(group.stream, i))
            started = time.perf_counter()
            answer = pipeline.answer(images, conversation, group.max_tiles)
            seconds = time.perf_counter() - started
            yield EvaluatedAnswer(group.name, conversation.messages[-1].content, conversation.answer, answer, seconds)


def format_table(answers: list[EvaluatedAnswer]) -> str:
    """Return the accuracy and the time of each group as a table, and all accuracies in the last line."""
    lines = ["group      questions  right  seconds each"]
    percent: dict[str, float] = {}
    for group in GROUPS:
        own = [a for a in answers if a.group == group.name]
        percent[group.name] = 100 * sum(a.is_right for a in own) / len(own)
        mean_seconds = sum(a.seconds for a in own) / len(own)
        lines.append(f"{group.name:10} {len(own):9} {percent[group.name]:5.1f}% {mean_seconds:9.2f}")
    return "\n".join([*lines, "evaluate: " + " ".join(f"{name} {figure:.1f}" for name, figure in percent.items())])


def main() -> None:
    """Evaluate the bundled checkpoint or that of --checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=300, help="questions of each group")
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    parser.add_argument("--dtype", default="auto", help="auto is what a worker chooses on this machine")
    parser.add_argument(
        "--quantise", choices=["int8", "int4"], help="in the resident engine, as a worker does on a CPU"
    )
    parser.add_argument("--wrong", action="store_true", help="print every wrong answer")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    pipeline = InferencePipeline(arguments.checkpoint, arguments.dtype, arguments.quantise)
    answers = []
    for a in evaluate(pipeline, lambda stream, i: seeds.evaluate(arguments.seed, stream, i), arguments.count):
        answers.append(a)
        if arguments.wrong and not a.is_right:
            print(f"{a.group}: {a.question!r} -> {a.answer!r}, not {a.expected!r}", flush=True)
    pipeline.close()
    print(format_table(answers))


if __name__ == "__main__":
    main()
