"""Prompts hold what was said, where it was said, and control tokens only where the template puts them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.conversation import IMAGE, ConversationError, Message, escape_images
from shared.models import MODELS
from shared.tokenization.tokenizer import Tokenizer, load_tokenizer
from tests.random_checkpoint import write_random
from workers.vision.prompts import (
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    TEMPLATES,
    PromptFormat,
    build,
    plain,
)

PER_TILE = 4


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", content=text)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_random(tmp_path_factory.mktemp("checkpoint")))


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> PromptFormat:
    return PromptFormat(tokenizer, TEMPLATES["internlm2-chat"], "Be brief.", PER_TILE)


def test_a_round_is_written_without_newline_after_the_end(model: PromptFormat) -> None:
    prompt = build([user("a"), assistant("b"), user("c")], [], model)
    assert prompt.text == (
        "<|im_start|>system\nBe brief.<|im_end|><|im_start|>user\na<|im_end|><|im_start|>assistant\n"
        "b<|im_end|><|im_start|>user\nc<|im_end|><|im_start|>assistant\n"
    )
    assert prompt.ids[0] == model.tokenizer.rules.bos_id
    assert prompt.question == "c"


def test_images_without_marks_are_one_block_at_the_top(model: PromptFormat) -> None:
    prompt = build([user("a"), assistant("b"), user("c")], [2, 3], model)
    assert f"user\n<img>…{PER_TILE} x 5…</img>\na<|im_end|>" in prompt.text
    assert prompt.image_tokens == prompt.ids.count(model.tokenizer.token_id(IMAGE_CONTEXT)) == 5 * PER_TILE


def test_images_go_where_their_marks_are_in_user_texts(model: PromptFormat) -> None:
    rounds = [user(f"1 {IMAGE}2{IMAGE}"), assistant(f"no {IMAGE} here"), user(f"{IMAGE}?")]
    prompt = build(rounds, [1, 2, 3], model)
    assert "1 <img>…4 x 1…</img>2<img>…4 x 2…</img><|im_end|>" in prompt.text
    assert "no <image> here" in prompt.text
    assert "<img>…4 x 3…</img>?" in prompt.text


def test_every_image_block_says_where_its_context_tokens_are(model: PromptFormat) -> None:
    prompt = build([user(f"1 {IMAGE}2{IMAGE}")], [1, 3], model)
    context = model.tokenizer.token_id(IMAGE_CONTEXT)
    assert [(span.tokens, span.tiles) for span in prompt.images] == [(PER_TILE, 1), (3 * PER_TILE, 3)]
    for span in prompt.images:
        assert prompt.ids[span.offset : span.offset + span.tokens] == [context] * span.tokens
        assert prompt.ids[span.offset - 1] == model.tokenizer.token_id(IMAGE_START)
        assert prompt.ids[span.offset + span.tokens] == model.tokenizer.token_id(IMAGE_END)


@pytest.mark.parametrize(
    ("messages", "tiles", "says"),
    [
        ([], [], "come first, after"),
        ([assistant("a")], [], "come first, after"),
        ([user("a"), assistant("b")], [], "come first, after"),
        ([user("a"), user("b")], [], "alternate"),
        ([user(f"{IMAGE}{IMAGE}")], [1], "2 <image> marks for 1 images"),
        ([user(f"{IMAGE}")], [], "1 <image> marks for 0 images"),
    ],
)
def test_what_is_no_conversation_is_refused(
    messages: list[Message], tiles: list[int], says: str, model: PromptFormat
) -> None:
    with pytest.raises(ConversationError, match=says):
        build(messages, tiles, model)


@given(
    text=st.text() | st.sampled_from(["<|im_end|>", "<IMG_CONTEXT>", "</s>", "<s>", "<img>", "<|im_start|>system\n"])
)
def test_what_is_said_adds_no_control_token(model: PromptFormat, text: str) -> None:
    special = set(model.tokenizer.rules.special.values())
    said = build([user(escape_images(text))], [], model)
    silent = build([user("a")], [], model)
    assert [token for token in said.ids if token in special] == [token for token in silent.ids if token in special]


def test_a_system_message_takes_the_place_of_the_models_own(model: PromptFormat) -> None:
    prompt = build([Message(role="system", content="Answer <|im_end|> once."), user("a")], [1], model)
    assert prompt.text == (
        "<|im_start|>system\nAnswer <|im_end|> once.<|im_end|><|im_start|>user\n<img>…4 x 1…</img>\na<|im_end|>"
        "<|im_start|>assistant\n"
    )
    silent = build([user("a")], [1], model)
    end = model.tokenizer.token_id("<|im_end|>")
    assert prompt.ids.count(end) == silent.ids.count(end)  # a system text never becomes a control token either


def test_an_empty_system_message_leaves_the_slot_empty(model: PromptFormat) -> None:
    prompt = build([Message(role="system", content=""), user("a")], [], model)
    assert prompt.text.startswith("<|im_start|>system\n<|im_end|>")


def test_an_escaped_mark_is_a_word_of_the_question(model: PromptFormat) -> None:
    prompt = build([user(rf"What is \{IMAGE}?")], [1], model)
    assert "user\n<img>…4 x 1…</img>\nWhat is <image>?<|im_end|>" in prompt.text
    assert prompt.question == "What is <image>?"


def test_a_template_without_a_place_for_a_system_message_refuses_one(tokenizer: Tokenizer) -> None:
    zh = PromptFormat(tokenizer, TEMPLATES["internvl_zh"], "", PER_TILE)
    with pytest.raises(ConversationError, match="internvl_zh has no place"):
        build([Message(role="system", content="x"), user("a")], [], zh)


def test_models_say_whether_their_template_takes_a_system_message() -> None:
    for model in MODELS:
        assert model.takes_system == bool(TEMPLATES[model.template].before_system), model.id


def test_the_template_before_1_2_keeps_its_spaces(tokenizer: Tokenizer) -> None:
    zh = PromptFormat(tokenizer, TEMPLATES["internvl_zh"], "", PER_TILE)
    prompt = build([user("a"), assistant("b"), user("c")], [1], zh)
    assert prompt.text == " <human>: <img>…4 x 1…</img>\na <bot>: b</s><human>: c <bot>:"


def test_an_engine_without_tokenizer_counts_bytes() -> None:
    prompt = plain([user("né")], [2], 10)
    assert (len(prompt.ids), prompt.image_tokens, prompt.question) == (23, 20, "né")
