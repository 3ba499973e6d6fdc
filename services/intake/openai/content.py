"""Items and messages of OpenAI's surface become turns of text with `<image>` marks, and the images they stand for.

An image stands where its part stands in its message, each part on a line of its own. System and developer messages,
`instructions` first, become the system message; neighbours of one role become one turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.conversation import IMAGE, escape_images
from shared.errors import InvalidField, UnsupportedParameter

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
DETAILS = ("low", "high", "auto", "original")
_TEXT_PARTS = ("input_text", "output_text", "text")
#: Fields of answers that clients send back as input.
_ECHOED = ("id", "status", "annotations", "logprobs", "refusal", "phase", "prompt_cache_breakpoint")
_NOTHING: tuple[object, ...] = (None, "", [], {})  #: values that clients send for want of one


@dataclass(frozen=True)
class ImageReference:
    """An image as a request names it."""

    url: str | None
    file_id: str | None
    detail: str
    field: str  #: its place in the request


@dataclass
class Conversation:
    """The turns and images of a request."""

    system: list[str] = field(default_factory=list)
    turns: list[tuple[str, str]] = field(default_factory=list)  #: (role, text)
    images: list[ImageReference] = field(default_factory=list)

    def messages(self) -> list[dict[str, str]]:
        """Return the messages of a native request."""
        system = [("system", "\n\n".join(self.system))] if self.system else []
        return [{"role": role, "content": text} for role, text in [*system, *self.turns]]

    def add(self, role: str, text: str) -> None:
        """Append a message."""
        if role == "system":
            self.system.append(text)
        elif self.turns and self.turns[-1][0] == role:
            self.turns[-1] = (role, f"{self.turns[-1][1]}\n{text}")
        else:
            self.turns.append((role, text))


def read_input(sent: str | Sequence[Mapping[str, Any]], instructions: str | None) -> Conversation:
    """Return the conversation of a `/v1/responses` request. Raises `InvalidField` or `UnsupportedParameter`."""
    conversation = Conversation([instructions] if instructions else [])
    if isinstance(sent, str):
        conversation.add("user", escape_images(sent))
        return conversation
    for n, item in enumerate(sent):
        kind = item.get("type", "message")
        if kind != "message":
            detail = f"input item {n} is of the type {str(kind)[:40]!r}; this service takes messages only"
            raise UnsupportedParameter(detail, field=f"input.{n}.type")
        _read_message(conversation, item, f"input.{n}")
    return conversation


def read_messages(sent: Sequence[Mapping[str, Any]]) -> Conversation:
    """Return the conversation of a `/v1/chat/completions` request. Raises as `read_input` does."""
    conversation = Conversation()
    for n, message in enumerate(sent):
        _read_message(conversation, message, f"messages.{n}")
    return conversation


def _read_message(conversation: Conversation, message: Mapping[str, Any], place: str) -> None:
    role = ROLES.get(str(message.get("role")))
    if role is None:
        known = ", ".join(f"`{name}`" for name in ROLES)
        raise InvalidField(f"the role of `{place}` must be one of {known}", field=f"{place}.role")
    _refuse_unknown(message, ("type", "role", "content", *_ECHOED), place)
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        detail = f"`{place}.content` must be a text or a list of at least one part"
        raise InvalidField(detail, field=f"{place}.content")
    parts = [_read_part(conversation, role, part, f"{place}.content.{n}") for n, part in enumerate(content)]
    conversation.add(role, "\n".join(parts))


def _read_part(conversation: Conversation, role: str, part: Any, place: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXT_PARTS:
        return _read_text(role, part, place)
    if kind not in ("input_image", "image_url"):
        detail = f"`{place}` must be a part of text or of an image, not {str(kind)[:40]!r}"
        raise UnsupportedParameter(detail, field=f"{place}.type")
    if role != "user":
        raise InvalidField(f"`{place}` is an image; images stand in `user` messages", field=place)
    conversation.images.append(_read_image(part, place))
    return IMAGE


def _read_text(role: str, part: Mapping[str, Any], place: str) -> str:
    _refuse_unknown(part, ("type", "text", *_ECHOED), place)
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidField(f"`{place}.text` must be a string", field=f"{place}.text")
    return escape_images(text) if role == "user" else text


def _read_image(part: Mapping[str, Any], place: str) -> ImageReference:
    if part["type"] == "image_url":  # chat: {"type": "image_url", "image_url": {"url", "detail"}}
        _refuse_unknown(part, ("type", "image_url"), place)
        part, place = part.get("image_url", {}), f"{place}.image_url"
        if not isinstance(part, dict):
            raise InvalidField(f'`{place}` must be an object, {{"url": "data:image/…;base64,…"}}', field=place)
        _refuse_unknown(part, ("url", "detail"), place)
        url, file_id, name = part.get("url"), None, "url"
    else:
        _refuse_unknown(part, ("type", "image_url", "file_id", "detail"), place)
        url, file_id, name = part.get("image_url"), part.get("file_id"), "image_url"
    detail = part.get("detail") or "auto"
    if detail not in DETAILS:
        raise InvalidField(f"`{place}.detail` must be one of {', '.join(DETAILS)}", field=f"{place}.detail")
    for value, key in ((url, name), (file_id, "file_id")):
        if value is not None and not isinstance(value, str):
            raise InvalidField(f"`{place}.{key}` must be a string", field=f"{place}.{key}")
    if (url is None) == (file_id is None):
        either = "`url`" if name == "url" else "`image_url` or `file_id`"
        raise InvalidField(f"`{place}` must name one image, by {either}", field=place)
    return ImageReference(url, file_id, detail, place)


def _refuse_unknown(value: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for name, sent in value.items():
        if name not in known and sent not in _NOTHING:
            raise UnsupportedParameter(f"`{place}.{name[:80]}` is not supported", field=f"{place}.{name[:80]}")
