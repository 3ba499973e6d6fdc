"""Generation fields under the names of transformers."""

from contextlib import suppress
from typing import Any

import pytest

from services.intake.submission.generation import translate
from shared.errors import InvalidField


def test_the_generation_of_the_model_card_is_taken_as_it_stands() -> None:
    card = {"num_beams": 1, "max_new_tokens": 512, "do_sample": False}
    assert translate(card) == {"num_beams": 1, "max_new_tokens": 512}


@pytest.mark.parametrize(
    ("generation", "temperature"),
    [
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.3}, 0.3),
        ({"do_sample": False, "temperature": 0}, 0),
        ({"do_sample": False, "temperature": 1.0}, 0),
        ({"do_sample": None, "temperature": 0.3}, 0.3),
    ],
)
def test_do_sample_is_honoured(generation: dict[str, Any], temperature: float) -> None:
    assert translate(generation) == {"temperature": temperature}


@pytest.mark.parametrize(
    ("generation", "field", "hint"),
    [
        ({"do_sample": True, "temperature": 0}, "do_sample", "above 0"),
        ({"do_sample": False, "temperature": 0.3}, "do_sample", "leave `temperature` out"),
        ({"do_sample": "yes"}, "do_sample", "true or false"),
        ({"max_tokens": 5}, "max_tokens", "use max_new_tokens"),
        ({"max_length": 5}, "max_length", "does not count the prompt"),
        ({"stop_strings": ["a"]}, "stop_strings", "use stop"),
        ({"num_return_sequences": 2}, "num_return_sequences", "leave it out"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size", "leave it out"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "use repetition_penalty"),
        ({"n": 2}, "n", "one job for each answer"),
        ({"eos_token_id": 2}, "eos_token_id", "checkpoint"),
    ],
)
def test_what_can_not_be_honoured_is_refused_with_what_to_use(
    generation: dict[str, Any], field: str, hint: str
) -> None:
    with pytest.raises(InvalidField, match=hint) as caught:
        translate(generation)
    assert caught.value.field == f"generation.{field}"


def test_values_that_change_nothing_are_accepted() -> None:
    neutral = {"early_stopping": False, "length_penalty": 1.0, "use_cache": True, "typical_p": None, "min_p": None}
    assert translate(neutral | {"top_k": 5}) == {"top_k": 5}
    others: dict[str, Any] = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "n": 1,
        "stop_strings": None,
        "eos_token_id": None,
    }
    others |= {"penalty_alpha": None, "suppress_tokens": [], "guidance_scale": 1.0, "output_logits": False}
    assert translate(others | {"top_k": 0}) == {}


@pytest.mark.parametrize("name", ["max_new_tokens", "max_length", "max_tokens"])
def test_a_length_that_is_null_is_not_dropped(name: str) -> None:
    with suppress(InvalidField):
        assert translate({name: None}) == {name: None}


@pytest.mark.parametrize("value", ["x", 1, None, []])
def test_what_is_no_object_is_left_to_the_schema(value: Any) -> None:
    assert translate(value) is value
