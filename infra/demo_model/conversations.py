"""Conversations about one image, two images or a page: earlier turns, the last question, its answer."""

from dataclasses import dataclass

from infra.demo_model.questions import Grounding, Question, ask_count, ask_field, ask_scene, ask_shapes
from infra.demo_model.render import Rng
from infra.demo_model.scenes import Scene
from shared.conversation import Message

TWO_IMAGES_PREFIX = "Image-1: <image>\nImage-2: <image>\n"  # before the first question


@dataclass(frozen=True)
class Conversation:
    """Messages that end with a question, the right answer to it, and where that answer can be seen."""

    messages: tuple[Message, ...]
    answer: str
    grounding: Grounding
    image_index: int = 0  #: the image of the last question


def build_conversation(questions: list[Question], prefix: str = "", image_index: int = 0) -> Conversation:
    """Return the conversation of `questions` in turn, each but the last followed by its answer."""
    messages: list[Message] = []
    for i, question in enumerate(questions):
        messages.append(Message(role="user", content=question.text if i else prefix + question.text))
        messages.append(Message(role="assistant", content=question.answer))
    return Conversation(tuple(messages[:-1]), questions[-1].answer, questions[-1].grounding, image_index)


def draw_zh(rng: Rng) -> bool:
    """Draw the language of a question: Chinese if true, else English."""
    return bool(rng.random() < 0.5)


def about_drawing(rng: Rng, scene: Scene, turns: int) -> Conversation:
    """Ask about a drawing."""
    return build_conversation([ask_scene(rng, scene, draw_zh(rng)) for _ in range(turns)])


def about_shapes(rng: Rng, scene: Scene) -> Conversation:
    """Ask for a kind, a colour or a count of shapes."""
    return build_conversation([ask_shapes(rng, scene, draw_zh(rng))])


def about_counts(rng: Rng, scene: Scene) -> Conversation:
    """Ask for a count of shapes."""
    return build_conversation([ask_count(rng, scene, draw_zh(rng))])


def about_two_drawings(rng: Rng, first: Scene, second: Scene, prefix: str) -> Conversation:
    """Ask about one of two drawings."""
    image_number = int(rng.integers(1, 3))
    scene = (first, second)[image_number - 1]
    return build_conversation([ask_scene(rng, scene, draw_zh(rng), image_number)], prefix, image_number - 1)


def about_page(rng: Rng, page: Scene, turns: int) -> Conversation:
    """Ask for fields of a page."""
    return build_conversation([ask_field(rng, page, draw_zh(rng)) for _ in range(turns)])
