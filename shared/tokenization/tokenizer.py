"""The tokenizers of the family, from their released files, without remote code and without sentencepiece.

    load_tokenizer(folder)  tokenizer.model or tokenizer.json, with tokenizer_config.json  ->  Tokenizer
    Tokenizer.encode_text   text to ids; never a control token, whatever the text holds
    Tokenizer.decode        ids to text as the original writes it
    Tokenizer.to_json       one string, read back by `from_json` where the files are not at hand

`tokenizers` does the merging. What it does not know is here: which pieces are control tokens and which are text, and
the spaces that the original puts in and takes out.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers.models import BPE

from shared.tokenization.detokenizer import SPACE_MARK, TokenDecoder, clean_up
from shared.tokenization.sentencepiece import Kind, Piece, VocabularyError, read_vocabulary

#: User-defined pieces of this form are marks that training reserved, not characters: a text that holds one spells it.
RESERVED = re.compile(r"[<\[].*[A-Za-z].*[>\]]", re.DOTALL)
BYTE = re.compile(r"<0x([0-9A-F]{2})>")

Pair = tuple[str, str]


class TokenizerError(ValueError):
    """The tokenizer's files can't be used; the message names file and field."""


@dataclass(frozen=True)
class Rules:
    """What the files say beside the pieces."""

    special: Mapping[str, int]  #: every control token by its text
    bos_id: int | None
    eos_id: int | None
    add_bos: bool  #: a prompt begins with `bos_id`
    dummy_prefix: bool  #: a space is put before a text (Llama)
    legacy: bool  #: … before every text that follows a control token, not just before the first
    clean_up: bool  #: decoding swallows spaces before punctuation


class Tokenizer:
    """Text to ids and back. Never changes, so threads may share it."""

    def __init__(self, model: tokenizers.Tokenizer, pieces: list[str], rules: Rules) -> None:
        self._model = model
        self._pieces = pieces
        self._bytes = {token: int(byte[1], 16) for token, text in enumerate(pieces) if (byte := BYTE.fullmatch(text))}
        self._silent = frozenset(rules.special.values())
        self.rules = rules

    @cached_property
    def size(self) -> int:
        """One more than the largest id."""
        return max(len(self._pieces), 1 + max(self._silent, default=0))

    def token_id(self, token: str) -> int:
        """Id of a control token; raises `TokenizerError` if there is none of that name."""
        try:
            return self.rules.special[token]
        except KeyError:
            raise TokenizerError(f"tokenizer_config.json: added_tokens_decoder has no {token}") from None

    def encode_text(self, text: str, at_start: bool = False) -> list[int]:
        """Ids of `text`, which stays text: `<|im_end|>` in it is spelt. `at_start`: nothing comes before it."""
        if not text:
            return []
        if self.rules.dummy_prefix and (self.rules.legacy or at_start):
            text = f" {text}"
        text = text.replace(" ", SPACE_MARK)
        if not text.isascii():
            text = text.encode(errors="replace").decode()  # a lone surrogate has no UTF-8
        ids: list[int] = self._model.encode(text, add_special_tokens=False).ids
        return ids

    def count(self, text: str) -> int:
        """Number of ids of `text`."""
        return len(self.encode_text(text))

    def split_special(self, text: str) -> list[str | int]:
        """Cut trusted text at its control tokens, which become ids."""
        parts = self._control.split(text)
        return [self.rules.special[part] if place % 2 else part for place, part in enumerate(parts) if part]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`, control tokens left out."""
        decoder = self.decoder()
        decoder.push(ids)
        text = self.tidy(decoder.text + decoder.pending)
        return text[1:] if self.rules.dummy_prefix and text.startswith(" ") else text

    def decoder(self) -> TokenDecoder:
        """A decoder for ids as they come; what it says is still to be tidied."""
        return TokenDecoder(self._pieces, self._bytes, self._silent)

    def token_bytes(self) -> list[bytes]:
        """The bytes that each id writes; a control token, which writes nothing, has its name."""
        written = [piece.replace(SPACE_MARK, " ").encode(errors="replace") for piece in self._pieces]
        written += [b""] * (self.size - len(written))
        for token, byte in self._bytes.items():
            written[token] = bytes([byte])
        for name, token in self.rules.special.items():
            written[token] = name.encode()
        return written

    def tidy(self, text: str) -> str:
        """Apply the original's clean-up of spaces where it has one."""
        return clean_up(text) if self.rules.clean_up else text

    def to_json(self) -> str:
        """Everything in one string."""
        state = {"tileq": 1, "rules": asdict(self.rules), "pieces": self._pieces, "model": self._model.to_str()}
        return json.dumps(state, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        try:
            state = json.loads(text)
            return cls(tokenizers.Tokenizer.from_str(state["model"]), state["pieces"], Rules(**state["rules"]))
        except (ValueError, KeyError, TypeError) as error:
            raise TokenizerError(f"not a tokenizer written by tileq: {error!r}") from error

    @cached_property
    def _control(self) -> re.Pattern[str]:
        longest_first = sorted(self.rules.special, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")


def load_tokenizer(folder: Path | str) -> Tokenizer:
    """Build the tokenizer of the checkpoint in `folder`. Raises `TokenizerError`."""
    folder = Path(folder)
    config = _read_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.model").is_file():
        pieces, model, dummy_prefix = _from_sentencepiece(folder / "tokenizer.model")
        control = {
            piece.text: token for token, piece in enumerate(pieces) if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)
        }
    elif (folder / "tokenizer.json").is_file():
        pieces, model, dummy_prefix, control = _from_json(folder / "tokenizer.json")
    else:
        raise TokenizerError(f"{folder}: neither tokenizer.model nor tokenizer.json is there")
    special = control | _added_tokens(config)
    internlm2 = str(config.get("tokenizer_class", "")).startswith("InternLM2")
    texts = [piece.text for piece in pieces]
    rules = Rules(
        special=special,
        bos_id=_named(config, "bos_token", special),
        eos_id=_named(config, "eos_token", special),
        add_bos=bool(config.get("add_bos_token", True)),
        dummy_prefix=dummy_prefix,
        legacy=bool(config.get("legacy", True)),
        # InternLM2's own tokenizer code cleans up whatever the config says; Llama's asks the config.
        clean_up=internlm2 or bool(config.get("clean_up_tokenization_spaces", False)),
    )
    return Tokenizer(model, texts, rules)


def _from_sentencepiece(path: Path) -> tuple[Sequence[Piece], tokenizers.Tokenizer, bool]:
    try:
        vocabulary = read_vocabulary(path.read_bytes())
        return vocabulary.pieces, _model(vocabulary.pieces), vocabulary.dummy_prefix
    except VocabularyError as error:
        raise TokenizerError(f"{path}: {error}") from error


def _model(pieces: Sequence[Piece]) -> tokenizers.Tokenizer:
    """A BPE model that yields what sentencepiece would, but no control token."""
    # sentencepiece never yields an unused piece, and takes InternLM2's NUL for one: its byte is written instead.
    unused = {piece.text for piece in pieces if piece.kind is Kind.UNUSED} | {"\0"}
    vocab = {f"\0{token}" if piece.text in unused else piece.text: token for token, piece in enumerate(pieces)}
    if len(vocab) != len(pieces):
        raise VocabularyError("two pieces are the same text")
    unknown = next((piece.text for piece in pieces if piece.kind is Kind.UNKNOWN), None)
    fallback = any(piece.kind is Kind.BYTE for piece in pieces)
    merged = {piece.text: piece.score for piece in pieces if piece.kind is Kind.NORMAL and piece.text not in unused}
    model = tokenizers.Tokenizer(BPE(vocab, _merges(merged), unk_token=unknown, fuse_unk=True, byte_fallback=fallback))
    whole = [piece.text for piece in pieces if piece.kind is Kind.USER_DEFINED and not RESERVED.fullmatch(piece.text)]
    model.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in whole])
    return model


def _merges(scores: Mapping[str, float]) -> list[Pair]:
    """Every way to make a piece of two pieces, the piece of the highest score first."""
    found = [
        (-score, text, cut)
        for text, score in scores.items()
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]
    found.sort(key=lambda merge: merge[0])
    return [(text[:cut], text[cut:]) for _, text, cut in found]


def _from_json(path: Path) -> tuple[Sequence[Piece], tokenizers.Tokenizer, bool, dict[str, int]]:
    """A tokenizer.json of a Llama: BPE with byte fallback and spaces as `▁`. Its added tokens get out of reach."""
    state = _read_json(path)
    model, added = state.get("model") or {}, state.get("added_tokens") or []
    if model.get("type") != "BPE" or not model.get("byte_fallback"):
        raise TokenizerError(f"{path}: model is {model.get('type')!r}; only BPE with byte_fallback is supported")
    try:
        control = {token["content"]: int(token["id"]) for token in added}
        vocab = {str(text): int(token) for text, token in model["vocab"].items()}
        texts = {token: text for text, token in vocab.items()} | {token: text for text, token in control.items()}
        bare = state | {
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": None,
            "post_processor": None,
            "decoder": None,
        }
        built = tokenizers.Tokenizer.from_str(json.dumps(bare))
    except Exception as error:  # tokenizers raises bare Exception for a file it can't use
        raise TokenizerError(f"{path}: {error!r}") from error
    pieces = [Piece(texts.get(token, ""), 0.0, Kind.NORMAL) for token in range(max(texts) + 1)]
    prefix = '"prepend":"▁"' in json.dumps(state.get("normalizer"), ensure_ascii=False, separators=(",", ":"))
    first = '"prepend_scheme":"' in json.dumps(state.get("pre_tokenizer"), separators=(",", ":"))
    return pieces, built, prefix or first, control


def _added_tokens(config: Mapping[str, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for number, token in (config.get("added_tokens_decoder") or {}).items():
        if not (str(number).isdigit() and isinstance(token, dict) and isinstance(token.get("content"), str)):
            raise TokenizerError(f"tokenizer_config.json: added_tokens_decoder.{number} has no id and content")
        if token["content"] and token.get("special", True):
            found[token["content"]] = int(number)
    return found


def _named(config: Mapping[str, Any], field: str, special: Mapping[str, int]) -> int | None:
    token = config.get(field)
    text = token.get("content") if isinstance(token, dict) else token
    if text is None:
        return None
    if text not in special:
        raise TokenizerError(f"tokenizer_config.json: {field} is {text!r}, which is no special token")
    return special[text]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise TokenizerError(f"{path}: not there") from None
    except ValueError as error:
        raise TokenizerError(f"{path}: not JSON ({error})") from error
    if not isinstance(state, dict):
        raise TokenizerError(f"{path}: not a JSON object")
    return state
