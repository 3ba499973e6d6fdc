"""A conversation: turns of text, with images where `<image>` stands in the texts of the user.

    system: "Answer in one word."                          optional, first, in place of the checkpoint's own
    user: "Image-1: <image>\\nImage-2: <image>\\nWhat differs?"
    assistant: "The colour of the car."
    user: "Which one is newer?"

The card's code knows the same two forms: `<image>` marks in the user texts, taken in order, or none at all, and then
all images form one block before the first user text.

`\\<image>` is the word itself and no mark. A backslash counts as an escape only directly before `<image>`, where it is
doubled to be itself: `\\\\<image>` is a backslash and a mark.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

IMAGE = "<image>"
_MARK = re.compile(rf"(\\*){re.escape(IMAGE)}")


class ConversationError(ValueError):
    """The messages are not a conversation. Says what must change."""


class Message(BaseModel):
    """One text of one speaker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Annotated[
        Literal["system", "user", "assistant"],
        Field(description="`system` first and once; then `user` and `assistant` alternate, from `user` to `user`"),
    ]
    content: Annotated[
        str,
        Field(description="in a `user` text `<image>` is the place of the next image, `\\<image>` the word itself"),
    ]


def check_turns(messages: Sequence[Message]) -> None:
    """Raise `ConversationError` unless user and assistant alternate, from user to user; a system text may lead."""
    turns = without_system(messages)
    if any(message.role == "system" for message in turns):
        raise ConversationError("a `system` message must come first, and there can be one only")
    if not turns or turns[0].role != "user" or turns[-1].role != "user":
        raise ConversationError("a `user` message must come first, after a `system` message if any, and last")
    if any(first.role == second.role for first, second in pairwise(turns)):
        raise ConversationError("`user` and `assistant` messages must alternate")


def system_of(messages: Sequence[Message]) -> str | None:
    """Return the text of the leading system message; None without one."""
    return messages[0].content if messages and messages[0].role == "system" else None


def without_system(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the messages behind a leading system message."""
    return messages[1:] if system_of(messages) is not None else messages


def placeholders(messages: Sequence[Message]) -> int:
    """Count the `<image>` marks in the user texts; in other texts `<image>` is plain text."""
    return sum(len(split_at_images(message.content)) - 1 for message in messages if message.role == "user")


def split_at_images(text: str) -> list[str]:
    """Return what stands before, between and behind the marks of a user text, with escapes resolved."""
    parts = [""]
    end = 0
    for mark in _MARK.finditer(text):
        parts[-1] += text[end : mark.start()] + "\\" * (len(mark[1]) // 2)
        end = mark.end()
        if len(mark[1]) % 2:
            parts[-1] += IMAGE
        else:
            parts.append("")
    parts[-1] += text[end:]
    return parts


def escape_images(text: str) -> str:
    """Return a user text that says `text` and has no mark."""
    return _MARK.sub(rf"\1\1\\{IMAGE}", text)
