"""Conversations about one picture, two pictures or a page: what was said before, the last question, its answer."""

from dataclasses import dataclass

from infra.demo_model.class_names import COLOURS, SHAPES
from infra.demo_model.questions import Grounding, Question, ask_count, ask_field, ask_scene, ask_shapes
from infra.demo_model.render import Rng
from infra.demo_model.scenes import FULL_PALETTE, Palette, Scene, drawing_scene
from shared.conversation import Message

TWO_IMAGES_PREFIX = "Image-1: <image>\nImage-2: <image>\n"


@dataclass(frozen=True)
class Conversation:
    """Messages that end with a question, and the right answer to it."""

    messages: tuple[Message, ...]
    answer: str
    grounding: Grounding
    image_index: int = 0  # which one the last question is about


def build_conversation(questions: list[Question], prefix: str = "", image_index: int = 0) -> Conversation:
    """Return the conversation in which `asks` are asked one after the other; the last one is open."""
    messages: list[Message] = []
    for i, question in enumerate(questions):
        messages.append(Message(role="user", content=question.text if i else prefix + question.text))
        messages.append(Message(role="assistant", content=question.answer))
    return Conversation(tuple(messages[:-1]), questions[-1].answer, questions[-1].grounding, image_index)


def choose_chinese(rng: Rng) -> bool:
    """Say whether to speak Chinese."""
    return bool(rng.random() < 0.5)


def random_drawing(rng: Rng) -> Scene:
    """Return a drawing: shapes, a number, or both."""
    sort = rng.random()
    if sort < 0.6:
        return drawing_scene(rng, 448, 448, int(rng.integers(1, 6)), number=False)
    return drawing_scene(rng, 448, 448, 0 if sort < 0.85 else int(rng.integers(1, 4)), number=True)


def repeated_shapes_scene(rng: Rng) -> Scene:
    """Return two to five shapes of one or two kinds, or colours: chance alone seldom draws three of one."""

    def few(of: int, all_of_them: tuple[int, ...]) -> tuple[int, ...]:
        some = rng.permutation(of)[: int(rng.integers(1, 3))]
        return tuple(int(k) for k in some) if rng.random() < 0.6 else all_of_them

    palette = Palette(few(len(SHAPES), FULL_PALETTE.kinds), few(len(COLOURS), FULL_PALETTE.colours))
    return drawing_scene(rng, 448, 448, int(rng.integers(2, 6)), number=False, palette=palette)


def about_one(rng: Rng, scene: Scene, turns: int) -> Conversation:
    """Ask about a drawing."""
    return build_conversation([ask_scene(rng, scene, choose_chinese(rng)) for _ in range(turns)])


def about_shapes(rng: Rng, scene: Scene) -> Conversation:
    """Ask which, what colour or how many."""
    return build_conversation([ask_shapes(rng, scene, choose_chinese(rng))])


def about_counts(rng: Rng, scene: Scene) -> Conversation:
    """Ask how many."""
    return build_conversation([ask_count(rng, scene, choose_chinese(rng))])


def about_two(rng: Rng, first: Scene, second: Scene, prefix: str) -> Conversation:
    """Ask about one of two drawings."""
    at = int(rng.integers(1, 3))
    return build_conversation([ask_scene(rng, (first, second)[at - 1], choose_chinese(rng), at)], prefix, at - 1)


def about_page(rng: Rng, page: Scene, turns: int) -> Conversation:
    """Ask for fields of a page."""
    return build_conversation([ask_field(rng, page, choose_chinese(rng)) for _ in range(turns)])
