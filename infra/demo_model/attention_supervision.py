"""Which tokens of the pictures an answer is read off: what one attention head of the decoder is told to look at.

Next-token loss alone finds the leftmost shape within minutes and after half an hour still not the purple one: the
word must come to where the answer is written, and ask there. Told where to look, the head learns to ask.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from infra.demo_model.class_names import MAX_DIGITS
from infra.demo_model.dense_targets import TOKEN_ATTRIBUTES, DenseTargets
from infra.demo_model.questions import Grounding

LABEL_COLUMN = MAX_DIGITS + list(TOKEN_ATTRIBUTES).index("label")
RANK_LEFT_COLUMN = MAX_DIGITS + list(TOKEN_ATTRIBUTES).index("left")
NO_LABEL_CLASS = 1  # class of a digit that belongs to no label


def token_classes(targets: DenseTargets) -> Tensor:
    """Return what stands on each token of a tile, (196, digits and attributes) in bytes."""
    return torch.from_numpy(targets.token_classes()).to(torch.int8)


def attention_targets(grounding: Grounding, answer_tokens: Sequence[str], classes: Tensor) -> Tensor:
    """Return for every token of the answer, its end included, which tokens it is read off: (said, tokens).

    said: the answer's tokens as text. seen: (tokens, digits and attributes) of the picture that was asked about.
    """
    if grounding.kind in {"number", "field"}:
        label = grounding.keys[0] + 2 if grounding.keys else NO_LABEL_CLASS
        labelled = classes[:, LABEL_COLUMN] == label
        last = len(answer_tokens) - 2  # the last digit, after which the answer ends
        return torch.stack([labelled & (classes[:, min(i, last)] > 0) for i in range(len(answer_tokens))])
    if grounding.kind == "shapes":
        shapes = torch.isin(classes[:, RANK_LEFT_COLUMN], torch.tensor(grounding.keys, dtype=torch.int8))
        return shapes.expand(len(answer_tokens), -1)
    rank, rows = 1, []
    for text in answer_tokens:
        rows.append(classes[:, RANK_LEFT_COLUMN] == rank)
        rank += ("," in text or "，" in text) and rank < len(grounding.keys)
    return torch.stack(rows)
