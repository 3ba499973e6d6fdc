"""Conversations about one picture, two pictures or a page: what was said before, the last question, its answer."""

from dataclasses import dataclass

from infra.demo_model.class_names import COLOURS, SHAPES
from infra.demo_model.questions import Ask, Look, ask_count, ask_field, ask_scene, ask_shapes
from infra.demo_model.render import Rng
from infra.demo_model.scenes import EVERYTHING, Palette, Scene, drawing
from shared.conversation import Message

PAIR = "Image-1: <image>\nImage-2: <image>\n"


@dataclass(frozen=True)
class Conversation:
    """Messages that end with a question, and the right answer to it."""

    messages: tuple[Message, ...]
    answer: str
    look: Look
    picture: int = 0  # which one the last question is about


def converse(asks: list[Ask], opening: str = "", picture: int = 0) -> Conversation:
    """Return the conversation in which `asks` are asked one after the other; the last one is open."""
    messages: list[Message] = []
    for i, ask in enumerate(asks):
        messages.append(Message(role="user", content=ask.text if i else opening + ask.text))
        messages.append(Message(role="assistant", content=ask.answer))
    return Conversation(tuple(messages[:-1]), asks[-1].answer, asks[-1].look, picture)


def language(rng: Rng) -> bool:
    """Say whether to speak Chinese."""
    return bool(rng.random() < 0.5)


def draw(rng: Rng) -> Scene:
    """Return a drawing: shapes, a number, or both."""
    sort = rng.random()
    if sort < 0.6:
        return drawing(rng, 448, 448, int(rng.integers(1, 6)), number=False)
    return drawing(rng, 448, 448, 0 if sort < 0.85 else int(rng.integers(1, 4)), number=True)


def crowd(rng: Rng) -> Scene:
    """Return two to five shapes of one or two kinds, or colours: chance alone seldom draws three of one."""

    def few(of: int, all_of_them: tuple[int, ...]) -> tuple[int, ...]:
        some = rng.permutation(of)[: int(rng.integers(1, 3))]
        return tuple(int(k) for k in some) if rng.random() < 0.6 else all_of_them

    palette = Palette(few(len(SHAPES), EVERYTHING.kinds), few(len(COLOURS), EVERYTHING.colours))
    return drawing(rng, 448, 448, int(rng.integers(2, 6)), number=False, palette=palette)


def about_one(rng: Rng, scene: Scene, rounds: int) -> Conversation:
    """Ask about a drawing."""
    return converse([ask_scene(rng, scene, language(rng)) for _ in range(rounds)])


def about_shapes(rng: Rng, scene: Scene) -> Conversation:
    """Ask which, what colour or how many."""
    return converse([ask_shapes(rng, scene, language(rng))])


def about_counts(rng: Rng, scene: Scene) -> Conversation:
    """Ask how many."""
    return converse([ask_count(rng, scene, language(rng))])


def about_two(rng: Rng, first: Scene, second: Scene, opening: str) -> Conversation:
    """Ask about one of two drawings."""
    at = int(rng.integers(1, 3))
    return converse([ask_scene(rng, (first, second)[at - 1], language(rng), at)], opening, at - 1)


def about_page(rng: Rng, page: Scene, rounds: int) -> Conversation:
    """Ask for fields of a page."""
    return converse([ask_field(rng, page, language(rng)) for _ in range(rounds)])
