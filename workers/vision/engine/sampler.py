"""The next token of each row, from its logits.

Order and meaning are those of generation in transformers, which the model card's code uses: repetition penalty over
generated tokens, temperature, top-k, top-p. Each request draws from a generator of its own, one number a token, so that
a seed gives the same text in every batch.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.vision.engine.base import DEFAULT_TOP_K, MIN_TEMPERATURE, EngineRequest, Sampling


@dataclass(frozen=True)
class Row:
    """What the choice of one row's token depends on beside its logits."""

    request: EngineRequest
    generated: Sequence[int]
    random: random.Random

    @property
    def sampling(self) -> Sampling:
        """How to choose."""
        return self.request.sampling


def finite(logits: Tensor) -> list[bool]:
    """Which rows of (M, vocab) can be chosen from."""
    found: list[bool] = logits.isfinite().all(dim=-1).tolist()
    return found


def sample(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """Choose a token for each row of (M, vocab) finite logits."""
    scores = adjust(logits.float(), rows)
    chosen: list[int] = scores.argmax(dim=-1).tolist()
    drawing = [place for place, row in enumerate(rows) if not row.sampling.greedy]
    if drawing:
        drawn = _draw(*warp(scores[drawing], [rows[place] for place in drawing]), [rows[place] for place in drawing])
        for place, token in zip(drawing, drawn, strict=True):
            chosen[place] = token
    return chosen


def adjust(scores: Tensor, rows: Sequence[Row]) -> Tensor:
    """Apply each row's repetition penalty and token mask to (M, vocab) float32, in place."""
    for place, row in enumerate(rows):
        penalty = row.sampling.repetition_penalty
        if penalty is not None and penalty != 1 and row.generated:
            seen = torch.tensor(sorted(set(row.generated)), device=scores.device)
            found = scores[place, seen]
            scores[place, seen] = torch.where(found > 0, found / penalty, found * penalty)
        if row.request.token_mask:
            allowed = torch.from_numpy(row.request.token_mask(row.generated)).to(scores.device)
            scores[place].masked_fill_(~allowed, -torch.inf)
    return scores


def warp(scores: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """What temperature, top-k and top-p leave of (M, vocab): scores, the best first, -inf if cut off, and their ids."""
    widths = [min(_top_k(row.sampling), scores.shape[-1]) for row in rows]
    best, ids = scores.topk(max(widths), dim=-1)
    best = (best - best[:, :1]) / _column(scores, [max(row.sampling.temperature, MIN_TEMPERATURE) for row in rows])
    best = best.masked_fill(torch.arange(max(widths), device=scores.device) >= _column(scores, widths), -torch.inf)
    shares = best.softmax(dim=-1)
    better = shares.cumsum(dim=-1) - shares
    return best.masked_fill(better >= _column(scores, [row.sampling.top_p or 1.0 for row in rows]), -torch.inf), ids


def _draw(scores: Tensor, ids: Tensor, rows: Sequence[Row]) -> list[int]:
    """Draw one token a row: the first at which the shares' sum passes the row's random number."""
    points = _column(scores, [row.random.random() for row in rows])
    sums = scores.double().softmax(dim=-1).cumsum(dim=-1)
    places = (sums <= points * sums[:, -1:]).sum(dim=-1, keepdim=True).clamp(max=ids.shape[-1] - 1)
    tokens: list[int] = ids.gather(1, places).squeeze(1).tolist()
    return tokens


def _top_k(sampling: Sampling) -> int:
    return (DEFAULT_TOP_K if sampling.top_k is None else sampling.top_k) or 1 << 31


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=like.device).unsqueeze(1)
