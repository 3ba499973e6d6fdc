"""Conversations."""

from shared.conversation import Message, placeholders


def test_marks_count_in_user_texts_only() -> None:
    user = Message(role="user", content="<image>\n<image> what?")
    assistant = Message(role="assistant", content="an <image> tag")
    assert placeholders([user, assistant, user]) == 4
