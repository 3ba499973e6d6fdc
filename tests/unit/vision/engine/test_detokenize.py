"""Streamed text is final when it is handed out, and in the end exactly what decoding at once gives."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.tokenization.detokenizer import CLEAN_UP_HORIZON_CHARS, clean_up
from shared.tokenization.tokenizer import Tokenizer, load_tokenizer
from tests.random_checkpoint import write_random
from workers.vision.engine.detokenize import IncrementalDetokenizer

#: The characters that clean-up looks at, a few others, and bytes of characters that need several.
SPACES = st.text(alphabet=" '.,?!ntmsver\na")
END = "<|im_end|>"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(write_random(tmp_path_factory.mktemp("checkpoint")))


def stream(tokenizer: Tokenizer, ids: Sequence[int], stops: Sequence[str] = (END,)) -> tuple[str, list[str]]:
    text = IncrementalDetokenizer(tokenizer, stops)
    deltas = []
    for token in ids:
        deltas.append(text.push(token))
        if text.stopped:
            break
    deltas.append(text.finish())
    assert "".join(deltas) == text.text
    return text.text, deltas


@given(text=SPACES)
def test_deltas_join_to_what_the_original_writes(tokenizer: Tokenizer, text: str) -> None:
    ids = [token for character in text for token in tokenizer.encode_text(character)]
    assert stream(tokenizer, ids)[0] == tokenizer.decode(ids).strip()


@given(ids=st.lists(st.integers(0, 430)))
def test_any_ids_stream_to_what_they_decode_to(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert stream(tokenizer, ids)[0] == tokenizer.decode(ids).split(END)[0].strip()


@given(before=SPACES, after=SPACES)
def test_what_lies_before_the_horizon_is_settled(before: str, after: str) -> None:
    """A space further than the horizon from the end is kept or swallowed whatever follows."""
    text = before + after
    cut = text.find(" ", max(0, len(before) - CLEAN_UP_HORIZON_CHARS), len(before))
    settled = clean_up(before)[: len(clean_up(before)) - (len(before) - cut)] if cut >= 0 else clean_up(before)
    assert clean_up(text).startswith(settled)


@given(text=SPACES, stop=st.sampled_from(["a", ".", " s", "\n", "ant", "'s", "n't"]))
def test_nothing_of_a_stop_string_is_handed_out(tokenizer: Tokenizer, text: str, stop: str) -> None:
    ids = [token for character in text for token in tokenizer.encode_text(character)]
    said, _ = stream(tokenizer, ids, (END, stop))
    assert stop not in said
    assert tokenizer.decode(ids).strip().startswith(said) or clean_up(text).lstrip().startswith(
        said[:-CLEAN_UP_HORIZON_CHARS]
    )


def test_a_stop_string_ends_the_text_before_it(tokenizer: Tokenizer) -> None:
    text = IncrementalDetokenizer(tokenizer, ("STOP",))
    for token in tokenizer.encode_text("one ST two STOP three"):
        text.push(token)
        if text.stopped:
            break
    assert (text.text, text.stopped) == ("one ST two", True)


def test_the_mark_in_plain_letters_cuts_the_text_too(tokenizer: Tokenizer) -> None:
    assert stream(tokenizer, tokenizer.encode_text("yes<|im_end|>no"))[0] == "yes"


def test_an_unfinished_character_is_held_back(tokenizer: Tokenizer) -> None:
    text = IncrementalDetokenizer(tokenizer, ())
    assert [text.push(token) for token in tokenizer.encode_text("你")] == ["", "", "你"]


def test_white_space_around_the_text_is_never_handed_out(tokenizer: Tokenizer) -> None:
    said, deltas = stream(tokenizer, tokenizer.encode_text(" \n the \n\n"))
    assert said == "the"
    assert all(not delta.startswith("\n") for delta in deltas)
