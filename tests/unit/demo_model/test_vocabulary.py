"""The tokenizer spells its words, digits and any other text."""

from pathlib import Path

import pytest

from infra.demo_model.prompt_format import load_prompt_format


@pytest.mark.parametrize(
    "text", ["\nHow many red shapes are there in the second picture?", "\nTOTAL 的数值是多少？", "Grüße 你好 x"]
)
def test_text_comes_back_from_its_ids(tokenizer: Path, text: str) -> None:
    loaded = load_prompt_format(tokenizer).tokenizer
    assert loaded.decode(loaded.encode_text(text)) == text


def test_a_number_is_one_token_for_each_digit(tokenizer: Path) -> None:
    assert len(load_prompt_format(tokenizer).tokenizer.encode_text("480213")) == 6
