import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.conversation import (
    IMAGE,
    ConversationError,
    Message,
    check_turns,
    escape_images,
    placeholders,
    split_at_images,
    system_of,
)

SYSTEM = Message(role="system", content=f"Be brief. {IMAGE}")
USER = Message(role="user", content=f"{IMAGE} and {IMAGE}")
ASSISTANT = Message(role="assistant", content=f"an {IMAGE} is a tag")
TEXTS = st.text(alphabet="\\<>image a", max_size=12) | st.lists(st.sampled_from(["\\", IMAGE, "a"])).map("".join)


def test_marks_count_in_user_texts_only() -> None:
    assert placeholders([SYSTEM, USER, ASSISTANT, USER]) == 4


def test_an_escaped_mark_is_a_word() -> None:
    assert split_at_images(rf"What does \{IMAGE} do in {IMAGE}?") == [f"What does {IMAGE} do in ", "?"]


def test_a_doubled_backslash_is_a_backslash_before_a_mark() -> None:
    assert split_at_images(rf"a\\{IMAGE}b") == ["a\\", "b"]


def test_a_backslash_elsewhere_is_itself() -> None:
    assert split_at_images(r"C:\\image \< image>") == [r"C:\\image \< image>"]


@given(text=TEXTS)
def test_an_escaped_text_says_itself_and_has_no_mark(text: str) -> None:
    assert split_at_images(escape_images(text)) == [text]


@given(before=TEXTS, after=TEXTS)
def test_escaped_texts_around_a_mark_stay_apart(before: str, after: str) -> None:
    assert split_at_images(f"{escape_images(before)} {IMAGE}{escape_images(after)}") == [f"{before} ", after]


@pytest.mark.parametrize("messages", [[USER], [SYSTEM, USER], [USER, ASSISTANT, USER]])
def test_a_conversation_goes_from_a_user_to_a_user(messages: list[Message]) -> None:
    check_turns(messages)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "come first, after"),
        ([SYSTEM], "come first, after"),
        ([ASSISTANT, USER], "come first, after"),
        ([USER, ASSISTANT], "come first, after"),
        ([USER, USER], "alternate"),
        ([USER, SYSTEM, USER], "there can be one"),
        ([SYSTEM, SYSTEM, USER], "there can be one"),
    ],
)
def test_any_other_order_is_refused(messages: list[Message], says: str) -> None:
    with pytest.raises(ConversationError, match=says):
        check_turns(messages)


def test_the_system_message_is_the_first_one() -> None:
    assert system_of([SYSTEM, USER]) == SYSTEM.content
    assert system_of([USER]) is None
    assert system_of([]) is None
