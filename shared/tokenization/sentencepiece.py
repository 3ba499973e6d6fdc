"""Reads `tokenizer.model`, a protobuf of sentencepiece's, without sentencepiece.

    ModelProto { 1: SentencePiece*, 2: TrainerSpec, 3: NormalizerSpec }
    SentencePiece { 1: piece, 2: score, 3: type }

Only the fields that decide how text becomes ids are read. sentencepiece 0.2.2 refuses InternLM2's file for its NUL
piece (google/sentencepiece#1308), which is why nothing here depends on it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

BPE = 2  # TrainerSpec.model_type; 1 is unigram


class VocabularyError(ValueError):
    """The bytes are no vocabulary that can be used; the message names the field."""


class Kind(IntEnum):
    """What a piece is for."""

    NORMAL = 1  #: made by merging
    UNKNOWN = 2  #: stands for what can't be written
    CONTROL = 3  #: never text
    USER_DEFINED = 4  #: one piece wherever it stands in a text
    UNUSED = 5  #: never produced
    BYTE = 6  #: one byte of a character that has no piece


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class Vocabulary:
    """What a tokenizer.model says."""

    pieces: tuple[Piece, ...]
    dummy_prefix: bool


def read_vocabulary(data: bytes) -> Vocabulary:
    """Parse `data`; refuses what this project would tokenise differently from sentencepiece."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for number, value in _fields(memoryview(data)):
            if number == 1:
                pieces.append(_piece(value))
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
    except (IndexError, ValueError, TypeError, struct.error) as error:
        raise VocabularyError(f"not a sentencepiece model ({error})") from error
    if not pieces:
        raise VocabularyError("not a sentencepiece model (it holds no pieces)")
    if trainer.get(3, 1) != BPE:
        raise VocabularyError(f"trainer_spec.model_type is {trainer.get(3, 1)}; only BPE ({BPE}) is supported")
    if normalizer.get(2):
        raise VocabularyError("normalizer_spec.precompiled_charsmap is set; only the identity is supported")
    if normalizer.get(4, 1):
        raise VocabularyError("normalizer_spec.remove_extra_whitespaces is on; only off is supported")
    return Vocabulary(tuple(pieces), dummy_prefix=bool(normalizer.get(3, 1)))


def _piece(data: memoryview) -> Piece:
    values = dict(_fields(data))
    (score,) = struct.unpack("<f", values[2]) if 2 in values else (0.0,)
    return Piece(bytes(values.get(1, b"")).decode(), score, Kind(values.get(3, Kind.NORMAL)))


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Yield field numbers and values of one message: integers for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"it ends inside field {number}")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError(f"a number of over 64 bits at byte {at}")


def write_vocabulary(vocabulary: Vocabulary) -> bytes:
    """The file of `vocabulary`, as `read_vocabulary` and sentencepiece read it."""
    pieces = b"".join(
        _message(
            1, _message(1, piece.text.encode()) + b"\x15" + struct.pack("<f", piece.score) + _number(3, piece.kind)
        )
        for piece in vocabulary.pieces
    )
    trainer = _number(3, BPE) + _number(35, any(piece.kind is Kind.BYTE for piece in vocabulary.pieces))
    normalizer = _message(1, b"identity") + _number(3, vocabulary.dummy_prefix) + _number(4, 0)
    return pieces + _message(2, trainer) + _message(3, normalizer)


def _message(number: int, data: bytes) -> bytes:
    return _as_varint(number << 3 | 2) + _as_varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _as_varint(number << 3) + _as_varint(int(value))


def _as_varint(value: int) -> bytes:
    low = b""
    while value > 0x7F:
        low += bytes([value & 0x7F | 0x80])
        value >>= 7
    return low + bytes([value])
