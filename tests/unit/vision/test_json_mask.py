"""Whatever tokens are drawn under the mask, the answer parses and follows its schema."""

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest

from shared.tokenization.tokenizer import Tokenizer, load_tokenizer
from tests.unit.shared.test_json_schema import ANSWER
from workers.vision.engine.detokenize import IncrementalDetokenizer
from workers.vision.engine.factory import BUNDLED
from workers.vision.json_mask import JsonMask, JsonMasks

PADDING = 7  #: ids of the model's vocabulary that the tokenizer does not have


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(BUNDLED)


@pytest.fixture(scope="module")
def end(tokenizer: Tokenizer) -> int:
    return tokenizer.token_id("<|im_end|>")


@pytest.fixture(scope="module")
def masks(tokenizer: Tokenizer, end: int) -> JsonMasks:
    return JsonMasks(tokenizer, tokenizer.size + PADDING, end)


def drawn(mask: JsonMask, draw: random.Random, end: int, most: int = 600) -> list[int]:
    """Ids drawn evenly from what the mask allows, the end left out."""
    ids: list[int] = []
    while len(ids) < most:
        allowed = np.flatnonzero(mask(ids)).tolist()
        token = draw.choice(allowed)
        if token == end:
            return ids
        ids.append(token)
    raise AssertionError("the answer did not end")


@pytest.mark.parametrize("seed", range(15))
def test_a_random_answer_follows_the_schema(tokenizer: Tokenizer, masks: JsonMasks, end: int, seed: int) -> None:
    mask = masks.mask(ANSWER)
    text = IncrementalDetokenizer(tokenizer, (), exact=True)
    said = "".join(text.push(token) for token in drawn(mask, random.Random(seed), end)) + text.finish()
    jsonschema.validate(json.loads(said), ANSWER)
    assert not mask.failure


@pytest.mark.parametrize("schema", [{"enum": ["is n't . , it 's"]}, {"const": "a ."}])
def test_no_space_of_an_answer_is_swallowed(
    tokenizer: Tokenizer, masks: JsonMasks, end: int, schema: dict[str, Any]
) -> None:
    text = IncrementalDetokenizer(tokenizer, (), exact=True)
    said = "".join(text.push(token) for token in drawn(masks.mask(schema), random.Random(0), end)) + text.finish()
    jsonschema.validate(json.loads(said), schema)


def test_no_control_token_and_no_padding_is_ever_allowed(tokenizer: Tokenizer, masks: JsonMasks, end: int) -> None:
    mask, ids = masks.mask({"type": "string"}), tokenizer.encode_text('"a')
    silent = [token for token in tokenizer.rules.special.values() if token != end]
    for length in range(len(ids) + 1):
        allowed = mask(ids[:length])
        assert not allowed[silent].any()
        assert not allowed[tokenizer.size :].any()
        assert not allowed[end]


def test_an_answer_that_is_complete_may_only_end(tokenizer: Tokenizer, masks: JsonMasks, end: int) -> None:
    mask = masks.mask({"enum": ["yes"]})
    assert np.flatnonzero(mask(tokenizer.encode_text('"yes"'))).tolist() == [end]


def test_a_shorter_answer_begins_again(tokenizer: Tokenizer, masks: JsonMasks) -> None:
    mask, ids = masks.mask({"enum": ["yes", "no"]}), tokenizer.encode_text('"yes"')
    first = mask([]).tolist()
    mask(ids)
    assert mask([]).tolist() == first


def test_a_token_outside_the_grammar_ends_the_answer_and_is_told(
    tokenizer: Tokenizer, masks: JsonMasks, end: int
) -> None:
    mask = masks.mask({"type": "object"})
    assert np.flatnonzero(mask(tokenizer.encode_text("no JSON"))).tolist() == [end]
    assert mask.failure
