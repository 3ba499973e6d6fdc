"""Which tokens of the pictures an answer is read off: what one attention head of the decoder is told to look at.

Next-token loss alone finds the leftmost shape within minutes and after half an hour still not the purple one: the
word must come to where the answer is written, and ask there. Told where to look, the head learns to ask.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from infra.demo_model.class_names import MAX_DIGITS
from infra.demo_model.dense_targets import TOKEN_ATTRIBUTES, Targets
from infra.demo_model.questions import Look

LABEL = MAX_DIGITS + list(TOKEN_ATTRIBUTES).index("label")
LEFT = MAX_DIGITS + list(TOKEN_ATTRIBUTES).index("left")
UNLABELLED = 1  # class of a digit that belongs to no label


def truth(found: Targets) -> Tensor:
    """Return what stands on each token of a tile, (196, digits and attributes) in bytes."""
    return torch.from_numpy(found.of_tokens()).to(torch.int8)


def looks(look: Look, said: Sequence[str], seen: Tensor) -> Tensor:
    """Return for every token of the answer, its end included, which tokens it is read off: (said, tokens).

    said: the answer's tokens as text. seen: (tokens, digits and attributes) of the picture that was asked about.
    """
    if look.what in {"number", "field"}:
        label = look.which[0] + 2 if look.which else UNLABELLED
        mine = seen[:, LABEL] == label
        last = len(said) - 2  # the last digit, after which the answer ends
        return torch.stack([mine & (seen[:, min(i, last)] > 0) for i in range(len(said))])
    if look.what == "shapes":
        wanted = torch.isin(seen[:, LEFT], torch.tensor(look.which, dtype=torch.int8))
        return wanted.expand(len(said), -1)
    rank, rows = 1, []
    for text in said:
        rows.append(seen[:, LEFT] == rank)
        rank += ("," in text or "，" in text) and rank < len(look.which)
    return torch.stack(rows)
