"""A conversation is what came before a question, the question, and its answer."""

from infra.demo_model import seeds
from infra.demo_model.conversations import about_drawing
from infra.demo_model.scenes import mixed_scene


def test_a_conversation_ends_with_the_open_question() -> None:
    conversation = about_drawing(seeds.check(7), mixed_scene(seeds.check(7)), 2)
    assert [m.role for m in conversation.messages] == ["user", "assistant", "user"]
    assert conversation.answer
