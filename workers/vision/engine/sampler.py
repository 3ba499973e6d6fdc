"""The next token of each row, from its logits.

Order and meaning are those of generation in transformers, which the model card's code uses: repetition penalty over
generated tokens, temperature, top-k, top-p. Each request draws from a generator of its own, one number a token, so that
a seed gives the same text in every batch. Nothing here waits for the device.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.vision.engine.base import DEFAULT_TOP_K, MIN_TEMPERATURE, EngineRequest, Sampling
from workers.vision.model.transfers import to_device


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

    @property
    def plain(self) -> bool:
        """Whether the likeliest token of the logits is taken as they are."""
        return self.sampling.greedy and self.sampling.repetition_penalty in (None, 1) and not self.request.token_mask


def sample(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Choose a token for each row of (M, vocab) logits: (M,) int64, -1 where a logit is NaN or infinite."""
    scores = logits.float()
    finite = scores.amin(dim=-1).isfinite() & scores.amax(dim=-1).isfinite()  # both are NaN where one logit is
    scores = adjust(scores, rows)
    chosen = scores.argmax(dim=-1)
    drawing = [place for place, row in enumerate(rows) if not row.sampling.greedy]
    if drawing:
        places, drawn = to_device(drawing, torch.int64, logits.device), [rows[place] for place in drawing]
        chosen[places] = _draw(*warp(scores[places], drawn), drawn)
    return torch.where(finite, chosen, -1)


def adjust(scores: Tensor, rows: Sequence[Row]) -> Tensor:
    """Apply each row's repetition penalty and token mask to (M, vocab) float32, in place."""
    seen = [
        (place, token, penalty)
        for place, row in enumerate(rows)
        if (penalty := row.sampling.repetition_penalty) not in (None, 1)
        for token in set(row.generated)
    ]
    if seen:
        places, tokens, penalties = to_device(list(zip(*seen, strict=True)), torch.float64, scores.device)
        at, factors = (places.long(), tokens.long()), penalties.float()
        found = scores[at]
        scores[at] = torch.where(found > 0, found / factors, found * factors)
    for place, row in enumerate(rows):
        if row.request.token_mask:
            refused = torch.from_numpy(~row.request.token_mask(row.generated))
            pinned = refused.pin_memory() if scores.is_cuda else refused
            scores[place].masked_fill_(pinned.to(scores.device, non_blocking=True), -torch.inf)
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


def _draw(scores: Tensor, ids: Tensor, rows: Sequence[Row]) -> Tensor:
    """Draw one token a row: the first at which the shares' sum passes the row's random number."""
    points = _column(scores, [row.random.random() for row in rows])
    sums = scores.double().softmax(dim=-1).cumsum(dim=-1)
    places = (sums <= points * sums[:, -1:]).sum(dim=-1, keepdim=True).clamp(max=ids.shape[-1] - 1)
    return ids.gather(1, places).squeeze(1)


def _top_k(sampling: Sampling) -> int:
    return (DEFAULT_TOP_K if sampling.top_k is None else sampling.top_k) or 1 << 31


def _column(like: Tensor, values: Sequence[float]) -> Tensor:
    return to_device(values, torch.float64, like.device).unsqueeze(1)
