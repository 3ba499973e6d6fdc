"""The tokenizer of the demo checkpoint: byte-pair pieces for its few words, characters and bytes for the rest."""

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from infra.demo_model.class_names import COLOURS_ZH, SHAPES_ZH
from infra.demo_model.questions import every_text
from shared.tokenization.sentencepiece import Kind, Piece, Vocabulary, write_vocabulary

SPACE_MARK = "▁"
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
CHINESE_TERMS = (
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
WORD_PATTERN = re.compile("|".join(sorted(CHINESE_TERMS, key=len, reverse=True)) + r"|▁?[A-Za-z]+|.", re.DOTALL)
PRINTABLE_ASCII = [chr(c) for c in range(33, 127)]


def byte_pair_merges(words: Counter[str]) -> list[str]:
    """Return what byte-pair merging makes, in order, until every word is one piece."""
    split = {word: list(word) for word in words}
    made: list[str] = []
    while True:
        pairs = Counter[tuple[str, str]]()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return made
        best = max(pairs, key=lambda p: (pairs[p], p))
        made.append("".join(best))
        for word, parts in split.items():
            split[word] = merge_pair(parts, best)


def merge_pair(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Return `parts` with every `pair` made one."""
    joined: list[str] = []
    for part in parts:
        if joined and (joined[-1], part) == pair:
            joined[-1] += part
        else:
            joined.append(part)
    return joined


def pieces() -> list[Piece]:
    """Return the whole vocabulary, control tokens beside the first three left out."""
    text = [w.replace(" ", SPACE_MARK) for w in every_text()]
    words = Counter(word for line in text for word in WORD_PATTERN.findall(line))
    characters = sorted({*PRINTABLE_ASCII, SPACE_MARK, "\n", *(c for word in words for c in word)})
    made = list(dict.fromkeys(byte_pair_merges(words)))
    found = [Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL), Piece("</s>", 0.0, Kind.CONTROL)]
    found += [Piece(f"<0x{b:02X}>", 0.0, Kind.BYTE) for b in range(256)]
    found += [Piece(text, -float(rank), Kind.NORMAL) for rank, text in enumerate([*made, *characters])]
    return found


def size() -> int:
    """Return how many tokens there are."""
    return len(pieces()) + len(CONTROL_TOKENS)


def write(folder: Path) -> int:
    """Write tokenizer.model and tokenizer_config.json to `folder`; return the size of the vocabulary."""
    found = pieces()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(write_vocabulary(Vocabulary(tuple(found), dummy_prefix=False)))
    specials = {0: "<unk>", 1: "<s>", 2: "</s>", **{len(found) + i: text for i, text in enumerate(CONTROL_TOKENS)}}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config: dict[str, Any] = {
        "added_tokens_decoder": {str(i): {"content": text, **plain} for i, text in specials.items()},
        "additional_special_tokens": list(CONTROL_TOKENS),
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        "tokenizer_class": "InternLM2Tokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    return len(found) + len(CONTROL_TOKENS)
