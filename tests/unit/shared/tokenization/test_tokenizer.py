"""The tokenizer on a small vocabulary of our own; the released one is held by the parity tests."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.tokenization.detokenizer import clean_up
from shared.tokenization.sentencepiece import (
    Kind,
    Piece,
    Vocabulary,
    VocabularyError,
    read_vocabulary,
    write_vocabulary,
)
from shared.tokenization.tokenizer import Tokenizer, TokenizerError, load_tokenizer
from tests.random_checkpoint import tokenizer_config, vocabulary


def written(folder: Path, pieces: Vocabulary | None = None, **config: object) -> Path:
    pieces = pieces or vocabulary()
    (folder / "tokenizer.model").write_bytes(write_vocabulary(pieces))
    settings = tokenizer_config(len(pieces.pieces)) | config
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(written(tmp_path_factory.mktemp("tokenizer")))


def test_a_vocabulary_survives_being_written_and_read() -> None:
    assert read_vocabulary(write_vocabulary(vocabulary())) == vocabulary()


def test_merges_follow_the_scores(tokenizer: Tokenizer) -> None:
    image, describe = (tokenizer.encode_text(f" {word}") for word in ("image", "describe"))
    assert len(image) == len(describe) == 1
    assert tokenizer.encode_text(" image describe") == image + describe


@given(text=st.text())
def test_text_comes_back_but_for_the_clean_up(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("▁", " ")
    whole = text.encode(errors="replace").decode()
    assert tokenizer.decode(tokenizer.encode_text(text)) == clean_up(whole)


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "<|im_start|>", "<IMG_CONTEXT>", "<img>", "</s>", "<s>", "<unk>", "<0x41>", "\0"]
)
def test_no_text_becomes_a_control_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_text(f"a{text}b")
    assert not set(ids) & set(tokenizer.rules.special.values())
    assert tokenizer.decode(ids) == f"a{text}b"


def test_trusted_text_is_cut_at_control_tokens(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_id("<|im_end|>")
    assert tokenizer.split_special("a<|im_end|><|im_end|>b") == ["a", end, end, "b"]
    assert tokenizer.split_special("") == []


def test_control_tokens_and_padding_decode_to_nothing(tokenizer: Tokenizer) -> None:
    ids = [1, *tokenizer.encode_text("a"), tokenizer.token_id("<|im_end|>"), tokenizer.size + 5]
    assert tokenizer.decode(ids) == "a"


def test_broken_bytes_read_as_one_sign_each(tokenizer: Tokenizer) -> None:
    first = 3  # of the byte pieces
    ids = [first + byte for byte in (0xF0, 0xA0, 0xE4, 0xBD, 0xA0)]
    assert tokenizer.decode(ids) == "\ufffd\ufffd你"


def test_one_string_holds_everything(tokenizer: Tokenizer) -> None:
    again = Tokenizer.from_json(tokenizer.to_json())
    assert again.rules == tokenizer.rules
    assert again.encode_text("the image 图 <s>") == tokenizer.encode_text("the image 图 <s>")
    assert again.decode([300, 280]) == tokenizer.decode([300, 280])
    with pytest.raises(TokenizerError, match="not a tokenizer"):
        Tokenizer.from_json("{}")


def test_a_llama_puts_a_space_first(tmp_path: Path) -> None:
    pieces = Vocabulary(vocabulary().pieces, dummy_prefix=True)
    legacy = load_tokenizer(written(tmp_path, pieces, tokenizer_class="LlamaTokenizer"))
    assert legacy.encode_text("image") == legacy.encode_text("image", at_start=True)
    assert legacy.decode(legacy.encode_text("image .")) == "image ."
    later = load_tokenizer(written(tmp_path, pieces, tokenizer_class="LlamaTokenizer", legacy=False))
    assert later.encode_text("image", at_start=True) == legacy.encode_text("image")
    assert later.encode_text("image") != legacy.encode_text("image")


def test_characters_defined_by_users_stay_whole_but_marks_are_spelt(tmp_path: Path) -> None:
    more = (Piece("……", 0.0, Kind.USER_DEFINED), Piece("[UNUSED_TOKEN_1]", 0.0, Kind.USER_DEFINED))
    first = len(vocabulary().pieces)
    tokenizer = load_tokenizer(written(tmp_path, Vocabulary(vocabulary().pieces + more, dummy_prefix=False)))
    assert tokenizer.encode_text("………………") == [first, first, first]
    assert first + 1 not in tokenizer.encode_text("[UNUSED_TOKEN_1]")
    assert tokenizer.decode([first + 1]) == "[UNUSED_TOKEN_1]"


def test_a_tokenizer_json_of_a_llama_is_read(tmp_path: Path) -> None:
    source = load_tokenizer(written(tmp_path))
    state = json.loads(source._model.to_str())
    state["added_tokens"] = [
        {"id": token, "content": text, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for text, token in source.rules.special.items()
    ]  # fmt: skip
    state["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    read = load_tokenizer(tmp_path)
    assert read.rules.dummy_prefix
    assert read.encode_text("image <s>") == source.encode_text(" image <s>")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.model", b"", "holds no pieces"),
        ("tokenizer.model", b"\x0a\xff\xff\xff", "not a sentencepiece model"),
        ("tokenizer_config.json", b"[]", "not a JSON object"),
        ("tokenizer_config.json", b"{", "not JSON"),
        ("tokenizer_config.json", b'{"bos_token": "<begin>"}', "bos_token"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}', "added_tokens_decoder.x"),
    ],
)
def test_a_broken_file_is_named_with_its_field(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (written(tmp_path) / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=f"{name}.*{says}"):
        load_tokenizer(tmp_path)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"neither tokenizer\.model nor tokenizer.json"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_that_would_be_tokenised_otherwise_is_refused() -> None:
    unigram = write_vocabulary(vocabulary()).replace(b"\x12\x05\x18\x02", b"\x12\x05\x18\x01")
    with pytest.raises(VocabularyError, match="model_type is 1"):
        read_vocabulary(unigram)
