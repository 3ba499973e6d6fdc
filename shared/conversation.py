"""A conversation: messages of user and assistant; each `<image>` in a user text marks the place of images.

    user: "Image-1: <image>\\nImage-2: <image>\\nWhat differs?"
    assistant: "The colour of the car."
    user: "Which one is newer?"

The model card's code has the same two forms: `<image>` placeholders in the user texts, filled in order; or none, and
then all images form one block before the first user text.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

IMAGE = "<image>"


class Message(BaseModel):
    """One text of one role."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["user", "assistant"]
    content: str


def placeholders(messages: Sequence[Message]) -> int:
    """Count the `<image>` marks in the user texts; in assistant texts the mark is plain text."""
    return sum(message.content.count(IMAGE) for message in messages if message.role == "user")
