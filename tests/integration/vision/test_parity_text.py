"""Grids, token ids and templates are those of the original, every one."""

from collections.abc import Iterator

import pytest

from shared.conversation import Message
from shared.tiling import grid, tile_count
from shared.tokenization.tokenizer import Tokenizer, load_tokenizer
from tests.integration.vision import cases
from workers.vision.prompts import TEMPLATES, PromptFormat, build

pytestmark = cases.needs_folder

TOKENS, TILING, CHATS = cases.read("tokenizer"), cases.read("tiling"), cases.read("templates")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(cases.FOLDER / "tokenizer")


def test_every_grid() -> None:
    wrong = [
        case
        for case in TILING["grids"]
        for chosen in [grid(*case[:3])]
        if [*chosen, tile_count(chosen, thumbnail=True)] != case[3:]
    ]
    assert not wrong
    assert TILING["grids"]


@pytest.mark.parametrize("case", TOKENS["cases"], ids=lambda case: repr(case["text"][:20]))
def test_text_becomes_the_ids(tokenizer: Tokenizer, case: dict[str, object]) -> None:
    assert tokenizer.encode_text(str(case["text"])) == case["ids"]


def test_intake_counts_the_same_from_the_one_string(tokenizer: Tokenizer) -> None:
    published = Tokenizer.from_json(tokenizer.to_json())
    found = [published.encode_text(case["text"]) for case in TOKENS["cases"]]
    assert found == [case["ids"] for case in TOKENS["cases"]]


@pytest.mark.parametrize("case", TOKENS["decoded"], ids=lambda case: repr(case["text"][:20]))
def test_ids_become_the_text(tokenizer: Tokenizer, case: dict[str, object]) -> None:
    ids = case["ids"]
    assert isinstance(ids, list)
    assert tokenizer.decode(ids) == case["text"]


def test_the_special_tokens_have_their_ids(tokenizer: Tokenizer) -> None:
    expected = TOKENS["special_tokens"]
    assert {token: tokenizer.token_id(token) for token in expected} == expected
    for token in (*expected, "[UNUSED_TOKEN_145]", "<s>", "</s>", "<unk>"):
        ids = tokenizer.encode_text(token)
        assert not set(ids) & set(tokenizer.rules.special.values())
        assert tokenizer.decode(ids) == token


def rounds(turns: list[list[str | None]]) -> Iterator[Message]:
    for question, answer in turns:
        yield Message(role="user", content=question or "")
        if answer is not None:
            yield Message(role="assistant", content=answer)


@pytest.mark.parametrize("case", CHATS if isinstance(CHATS, list) else [])
def test_a_conversation_becomes_the_prompt(tokenizer: Tokenizer, case: dict[str, object]) -> None:
    template = TEMPLATES[str(case["template"])]
    system, turns = case["system_message"] or "", case["turns"]
    assert isinstance(turns, list)
    assert template.system == system
    prompt = build(list(rounds(turns)), [], PromptFormat(tokenizer, template, str(system), 256))
    assert (prompt.text, template.stop) == (case["prompt"], case["stop"])
