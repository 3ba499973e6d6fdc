"""The tokenizer of the demo checkpoint: byte-pair pieces of its few words, single characters, and bytes for the rest.

Byte-pair encoding after Sennrich et al. 2016 (arXiv:1508.07909), merged until every word of the corpus is one piece.
"""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from infra.demo_model.class_names import COLOURS_ZH, SHAPES_ZH
from infra.demo_model.questions import tokenizer_corpus
from shared.tokenization.sentencepiece import Kind, Piece, Vocabulary, write_vocabulary

SPACE_MARK = "▁"  # SentencePiece's sign for a space
MODEL_MAX_LENGTH_TOKENS = 32768
CONTROL_TOKENS = (
    "<|im_end|>",
    "<|im_start|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
CHINESE_WORDS = (
    *COLOURS_ZH,
    *SHAPES_ZH,
    "图形",
    "图中",
    "第一张",
    "第二张",
    "第一张图中",
    "第二张图中",
    "几个",
    "多少",
    "什么",
    "颜色",
    "数字",
    "数值",
    "最左边",
    "最右边",
    "最上面",
    "最下面",
    "从左到右",
    "描述",
    "哪个",
    "哪种",
    "哪些",
    "一共",
    "读出",
    "这一栏",
    "印着",
    "多少个",
)
WORD_PATTERN = re.compile(
    "|".join(sorted(CHINESE_WORDS, key=len, reverse=True)) + r"|▁?[A-Za-z]+|.",
    re.DOTALL,
)
PRINTABLE_ASCII = [chr(c) for c in range(33, 127)]


def byte_pair_merges(words: Counter[str]) -> list[str]:
    """Return the merged pieces in order of merging, the most frequent pair first, until every word is one piece."""
    split = {word: list(word) for word in words}
    merged: list[str] = []
    while True:
        pairs = Counter[tuple[str, str]]()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merged
        best = max(pairs, key=lambda p: (pairs[p], p))
        merged.append("".join(best))
        for word, parts in split.items():
            split[word] = merge_pair(parts, best)


def merge_pair(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Return `parts` with every occurrence of `pair` merged."""
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def pieces() -> list[Piece]:
    """Return the pieces of tokenizer.model: everything but CONTROL_TOKENS, which come after them."""
    lines = [text.replace(" ", SPACE_MARK) for text in tokenizer_corpus()]
    words = Counter(word for line in lines for word in WORD_PATTERN.findall(line))
    characters = sorted({*PRINTABLE_ASCII, SPACE_MARK, "\n", *(c for word in words for c in word)})
    merged = list(dict.fromkeys(byte_pair_merges(words)))
    control = [Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL), Piece("</s>", 0.0, Kind.CONTROL)]
    byte_pieces = [Piece(f"<0x{b:02X}>", 0.0, Kind.BYTE) for b in range(256)]
    normal = [Piece(text, -float(rank), Kind.NORMAL) for rank, text in enumerate([*merged, *characters])]
    return control + byte_pieces + normal


def size() -> int:
    """Return the number of tokens."""
    return len(pieces()) + len(CONTROL_TOKENS)


def write(folder: Path) -> int:
    """Write tokenizer.model and tokenizer_config.json to `folder`; return the number of tokens."""
    all_pieces = pieces()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(write_vocabulary(Vocabulary(tuple(all_pieces), dummy_prefix=False)))
    after_pieces = {len(all_pieces) + i: text for i, text in enumerate(CONTROL_TOKENS)}
    special = {0: "<unk>", 1: "<s>", 2: "</s>", **after_pieces}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config: dict[str, Any] = {
        "added_tokens_decoder": {str(i): {"content": text, **flags} for i, text in special.items()},
        "additional_special_tokens": list(CONTROL_TOKENS),
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": MODEL_MAX_LENGTH_TOKENS,
        "tokenizer_class": "InternLM2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return len(all_pieces) + len(CONTROL_TOKENS)
