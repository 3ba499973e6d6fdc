"""Attention supervision: the image tokens that one head of the decoder should attend to for each token of an answer.

After Liu et al. 2016, "Neural Machine Translation with Supervised Attention" (arXiv:1609.04186). With next-token loss
alone the decoder learnt within minutes to find the leftmost shape, but in half an hour not the purple one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from infra.demo_model.class_names import MAX_DIGITS
from infra.demo_model.dense_targets import BACKGROUND, NO_LABEL_CLASS, TOKEN_ATTRIBUTES, DenseTargets
from infra.demo_model.questions import Grounding

LABEL_COLUMN = MAX_DIGITS + list(TOKEN_ATTRIBUTES).index("label")
RANK_LEFT_COLUMN = MAX_DIGITS + list(TOKEN_ATTRIBUTES).index("rank_left")


def token_classes(targets: DenseTargets) -> Tensor:
    """Return the classes of every token of a tile, (196, digits + attributes), int8."""
    return torch.from_numpy(targets.token_classes()).to(torch.int8)


def attention_targets(grounding: Grounding, answer_tokens: Sequence[str], classes: Tensor) -> Tensor:
    """Return which image tokens each token of the answer should attend to: (answer tokens, image tokens), bool.

    answer_tokens: the text of each, the stop token included, which has the targets of the token before it
    classes: (image tokens, digits + attributes) of the image in question
    """
    if grounding.kind in {"number", "field"}:
        return digit_targets(grounding, len(answer_tokens), classes)
    ranks = classes[:, RANK_LEFT_COLUMN]
    if grounding.kind == "shapes":
        shapes = torch.isin(ranks, torch.tensor(grounding.keys, dtype=torch.int8))
        return shapes.expand(len(answer_tokens), -1)
    return caption_targets(answer_tokens, ranks, len(grounding.keys))


def digit_targets(grounding: Grounding, length: int, classes: Tensor) -> Tensor:
    """Return the token of the i-th digit for the i-th answer token, (length, image tokens)."""
    label = grounding.keys[0] + 1 + NO_LABEL_CLASS if grounding.keys else NO_LABEL_CLASS
    has_label = classes[:, LABEL_COLUMN] == label
    last_digit = length - 2
    return torch.stack([has_label & (classes[:, min(i, last_digit)] != BACKGROUND) for i in range(length)])


def caption_targets(answer_tokens: Sequence[str], ranks: Tensor, shapes: int) -> Tensor:
    """Return the tokens of the shape that a caption names: the next one from the left after every comma."""
    rank, rows = 1, []
    for text in answer_tokens:
        rows.append(ranks == rank)
        rank += ("," in text or "，" in text) and rank < shapes
    return torch.stack(rows)
