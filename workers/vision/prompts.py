"""From messages to the exact token ids that the released model was trained on.

    internlm2-chat  <s><|im_start|>system\\n{system}<|im_end|><|im_start|>user\\n{Q}<|im_end|><|im_start|>assistant\\n
    Hermes-2        the same without <s>
    internvl_zh     <s> <human>: {Q} <bot>: {A}</s><human>: {Q} <bot>:

There is no newline after `<|im_end|>`. An image is `<img>`, its context tokens, `</img>`. Control tokens are placed by
their ids and a speaker's text never becomes one, so a question may quote `<|im_end|>` without ending its turn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from shared.conversation import (
    IMAGE,
    ConversationError,
    Message,
    check_turns,
    placeholders,
    split_at_images,
    system_of,
    without_system,
)
from shared.tokenization.tokenizer import Tokenizer

IMAGE_START, IMAGE_CONTEXT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"


@dataclass(frozen=True)
class PromptTemplate:
    """How a conversation is written: what surrounds a system message, a question and an answer."""

    name: str
    system: str  #: system message of the release; "" where there is none
    before_system: str
    after_system: str
    before_user: str
    after_user: str
    before_assistant: str
    after_assistant: str
    stop: str  #: the one token that ends an answer, and the mark at which the original cuts its text


def _chatml(name: str, system: str) -> PromptTemplate:
    end = "<|im_end|>"
    return PromptTemplate(
        name=name,
        system=system,
        before_system="<|im_start|>system\n",
        after_system=end,
        before_user="<|im_start|>user\n",
        after_user=end,
        before_assistant="<|im_start|>assistant\n",
        after_assistant=end,
        stop=end,
    )


TEMPLATES = {
    template.name: template
    for template in (
        _chatml("internlm2-chat", "You are an AI assistant whose name is InternLM (书生·浦语)."),
        _chatml("Hermes-2", "Answer the questions."),
        PromptTemplate(
            name="internvl_zh",
            system="",
            before_system="",
            after_system=" ",
            before_user="<human>: ",
            after_user=" ",
            before_assistant="<bot>:",
            after_assistant="</s>",
            stop="</s>",
        ),
    )
}


@dataclass(frozen=True)
class PromptFormat:
    """How prompts of one checkpoint are written."""

    tokenizer: Tokenizer
    template: PromptTemplate
    system: str
    tokens_per_tile: int


@dataclass(frozen=True)
class ImageSpan:
    """Context tokens of one image block: `ids[offset : offset + tokens]` of its prompt, for the next `tiles` tiles.

    Every image has the same context ids, so two prompts of equal ids may show different images.
    """

    offset: int
    tokens: int
    tiles: int


@dataclass(frozen=True)
class Prompt:
    """Token ids for the model, the places of its images among them, and the same as text."""

    ids: list[int]
    images: tuple[ImageSpan, ...]  #: in the order of the tiles
    text: str
    question: str = ""  #: the last user text, for engines that do not read ids

    @property
    def image_tokens(self) -> int:
        """Number of ids that stand for tiles."""
        return sum(span.tokens for span in self.images)


class ControlText(str):
    """Text of the template, in which special tokens are tokens; a speaker's text is a plain `str` and stays text."""

    __slots__ = ()


class ImageBlock(int):
    """One image block, as the number of its tiles."""

    __slots__ = ()


PromptPart = ControlText | ImageBlock | str


def build(messages: Sequence[Message], tiles_per_image: Sequence[int], model: PromptFormat) -> Prompt:
    """Return `messages` in the format of `model`, images where `<image>` stands, or all in one block at the top.

    A system message takes the place of the model's own. Raises `ConversationError`.
    """
    parts = list(_parts(messages, tiles_per_image, model.template, model.system))
    ids, images = _encode(parts, model)
    return Prompt(ids, images, _fold(parts, model.tokens_per_tile), _question(messages))


def plain(messages: Sequence[Message], tiles_per_image: Sequence[int], tokens_per_tile: int) -> Prompt:
    """Return a prompt for an engine without a tokenizer: an id for each byte, `tokens_per_tile` for each tile."""
    text = "\n".join(message.content for message in messages)
    ids: list[int] = []
    images = []
    for tiles in tiles_per_image:
        images.append(ImageSpan(len(ids), tiles * tokens_per_tile, tiles))
        ids += [0] * images[-1].tokens
    return Prompt(ids + list(text.encode()), tuple(images), text, _question(messages))


def _question(messages: Sequence[Message]) -> str:
    """Return the last user text as it is said, marks included."""
    texts = (message.content for message in reversed(messages) if message.role == "user")
    return IMAGE.join(split_at_images(next(texts, "")))


def _parts(
    messages: Sequence[Message], tiles_per_image: Sequence[int], template: PromptTemplate, system: str
) -> Iterator[PromptPart]:
    _check(messages, tiles_per_image)
    yield ControlText(template.before_system)
    yield _system(messages, template, system)
    yield ControlText(template.after_system)
    unmarked = bool(tiles_per_image) and not placeholders(messages)
    # Several images without marks are one block before the first user text, as in the card.
    blocks = iter([ImageBlock(sum(tiles_per_image))] if unmarked else map(ImageBlock, tiles_per_image))
    for number, message in enumerate(without_system(messages)):
        if message.role == "assistant":
            yield from _answer(message.content, template)
            continue
        yield ControlText(template.before_user)
        if unmarked and number == 0:
            yield from (next(blocks), "\n")
        first, *rest = split_at_images(message.content)
        yield first
        for text in rest:
            yield from (next(blocks), text)
        yield ControlText(template.after_user)
    yield ControlText(template.before_assistant)


def _answer(text: str, template: PromptTemplate) -> Iterator[PromptPart]:
    # The original writes "role: text" here and "role:" before an answer that is yet to come.
    space = " " if template.before_assistant.endswith(":") else ""
    yield ControlText(template.before_assistant + space)
    yield text
    yield ControlText(template.after_assistant)


def _system(messages: Sequence[Message], template: PromptTemplate, default: str) -> str:
    asked = system_of(messages)
    if asked is None:
        return default
    if not template.before_system:
        raise ConversationError(f"the template {template.name} has no place for a system message")
    return asked


def _check(messages: Sequence[Message], tiles_per_image: Sequence[int]) -> None:
    check_turns(messages)
    marks = placeholders(messages)
    if marks and marks != len(tiles_per_image):
        raise ConversationError(f"{marks} {IMAGE} marks for {len(tiles_per_image)} images")


def _encode(parts: Sequence[PromptPart], model: PromptFormat) -> tuple[list[int], tuple[ImageSpan, ...]]:
    """Return ids and image spans. Neighbouring texts are tokenised together, as in the original; special tokens come
    from the template alone."""
    tokenizer, rules = model.tokenizer, model.tokenizer.rules
    ids = [rules.bos_id] if rules.add_bos and rules.bos_id is not None else []
    images: list[ImageSpan] = []
    at_start = True
    for kind, group in groupby(_pieces(parts, tokenizer), key=type):
        if kind is str:
            ids += tokenizer.encode_text("".join(map(str, group)), at_start=at_start)
        elif kind is ImageBlock:
            for tiles in group:
                ids.append(tokenizer.token_id(IMAGE_START))
                images.append(ImageSpan(len(ids), int(tiles) * model.tokens_per_tile, int(tiles)))
                ids += [tokenizer.token_id(IMAGE_CONTEXT)] * images[-1].tokens
                ids.append(tokenizer.token_id(IMAGE_END))
        else:
            ids += [int(token) for token in group]
        at_start = False
    return ids, tuple(images)


def _pieces(parts: Sequence[PromptPart], tokenizer: Tokenizer) -> Iterator[str | ImageBlock | int]:
    """Yield text to tokenise, image blocks, and the ids of special tokens."""
    for part in parts:
        if isinstance(part, ControlText):
            yield from tokenizer.split_special(part)
        elif isinstance(part, ImageBlock) or part:
            yield part


def _fold(parts: Sequence[PromptPart], tokens_per_tile: int) -> str:
    """Return the prompt for people: an image block shows as `<img>…256 x 7…</img>`."""
    return "".join(
        f"{IMAGE_START}…{tokens_per_tile} x {int(part)}…{IMAGE_END}" if isinstance(part, ImageBlock) else str(part)
        for part in parts
    )
