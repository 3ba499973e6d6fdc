"""What is asked: rounds of text, with images where `<image>` stands.

    user: "Image-1: <image>\\nImage-2: <image>\\nWhat differs?"
    assistant: "The colour of the car."
    user: "Which one is newer?"

The card's code knows the same two forms: `<image>` placeholders in the user texts, taken in order, or none at all,
and then all images form one block before the first user text.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

IMAGE = "<image>"


class Message(BaseModel):
    """One text of one speaker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["user", "assistant"]
    content: str


def placeholders(messages: Sequence[Message]) -> int:
    """Count the `<image>` marks in the user texts; in assistant texts the mark is plain text."""
    return sum(message.content.count(IMAGE) for message in messages if message.role == "user")
