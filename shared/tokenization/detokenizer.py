"""Ids back to text, as they come or all at once, byte for byte as the original writes it."""

from collections.abc import Iterable, Mapping

SPACE_MARK = "▁"  #: how sentencepiece writes a space
REPLACEMENT_CHARACTER = "\ufffd"  #: stands for each byte that is part of no character

#: What the original's clean-up swallows, in its order.
CLEAN_UP_RULES = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)
#: What becomes of a space depends on no more characters than this from it on, however the swallowings chain
#: (`  ' ve` becomes `'ve`; held by a test over random texts).
CLEAN_UP_HORIZON_CHARS = 8


def clean_up(text: str) -> str:
    """Swallow spaces as the original's `clean_up_tokenization` does: `'a' 's .'` loses two."""
    for written, kept in CLEAN_UP_RULES:
        text = text.replace(written, kept)
    return text


class TokenDecoder:
    """Takes ids one after the other. `text` is final, `pending` what an incomplete character would read as."""

    def __init__(self, pieces: list[str], byte_pieces: Mapping[int, int], silent: frozenset[int]) -> None:
        self._pieces = pieces
        self._bytes = byte_pieces
        self._silent = silent
        self._run = b""  # of byte pieces, not yet a whole character
        self.text = ""

    @property
    def pending(self) -> str:
        """What the bytes so far read as if nothing followed."""
        return _characters(self._run)[0]

    def push(self, ids: Iterable[int]) -> None:
        """Take more ids. Control tokens and ids of no piece (padding of the vocabulary) write nothing."""
        for token in ids:
            if token in self._silent:
                continue
            if token in self._bytes:
                whole, self._run = _characters(self._run + bytes([self._bytes[token]]), wait=True)
                self.text += whole
            elif 0 <= token < len(self._pieces):
                self.text += self.pending + self._pieces[token].replace(SPACE_MARK, " ")
                self._run = b""


def _characters(run: bytes, wait: bool = False) -> tuple[str, bytes]:
    """Read `run` as UTF-8, each stray byte as U+FFFD; `wait` leaves an unfinished character as the rest."""
    text = ""
    while run:
        size = _size(run[0])
        if wait and len(run) < size:
            break
        try:
            text += run[:size].decode()
        except UnicodeDecodeError:
            text, size = text + REPLACEMENT_CHARACTER, 1
        run = run[size:]
    return text, run


def _size(first: int) -> int:
    """Bytes of the character that begins with `first`, 1 if none does."""
    if 0xC2 <= first < 0xE0:
        return 2
    if 0xE0 <= first < 0xF0:
        return 3
    return 4 if 0xF0 <= first < 0xF5 else 1
