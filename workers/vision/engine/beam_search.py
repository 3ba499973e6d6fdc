"""Beam search as generation in transformers does it with its defaults: length penalty 1, early stopping by heuristic.

Beams are branches of one sequence. Each step keeps the best 2 * beams continuations: those of them among the first
`beams` that end are finished, the best `beams` of the others go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.vision.engine import sampler
from workers.vision.engine.base import Sampling
from workers.vision.engine.errors import NonFiniteLogits
from workers.vision.engine.sampler import Row


@dataclass(frozen=True)
class Continuation:
    """A beam of the next step."""

    parent: int  #: index of the branch that it continues
    token: int


class BeamSearch:
    """The search for one answer."""

    def __init__(self, sampling: Sampling, end: int, limit: int) -> None:
        """`end`: id of the token that ends an answer; `limit`: of new tokens."""
        self.sampling = sampling
        self._end = end
        self._limit = limit
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._totals = [0.0]  # scores of the running beams, best first
        self._finished: list[tuple[float, list[int]]] = []  # best first
        self._generator = torch.Generator()
        if self.sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(self.sampling.seed)

    @property
    def best(self) -> list[int]:
        """Ids of the best finished beam."""
        return self._finished[0][1]

    def advance(self, logits: Tensor, rows: Sequence[Row]) -> list[Continuation]:
        """Take each beam's (beams, vocab) logits, return the next beams; none when the search is over.

        Raises `NonFiniteLogits`.
        """
        scores = self._scores_of(logits, rows)
        count = len(rows[0].generated) + 1
        running: list[tuple[float, Continuation]] = []
        for rank, (score, continuation) in enumerate(self._likeliest(scores)):
            if continuation.token != self._end and count < self._limit:
                running.append((score, continuation))
            elif rank < self.sampling.num_beams:
                self._finish(score / count, [*rows[continuation.parent].generated, continuation.token])
        del running[self.sampling.num_beams :]
        self._totals = [total for total, _ in running]
        return [] if self._over(count) else [continuation for _, continuation in running]

    def _scores_of(self, logits: Tensor, rows: Sequence[Row]) -> Tensor:
        """Log probabilities (beams, vocab), minus infinity where sampling cuts off."""
        if not logits.isfinite().all():
            raise NonFiniteLogits
        scores = sampler.adjust(logits.float().log_softmax(dim=-1), rows)
        if self.sampling.greedy:
            return scores
        warped, ids = sampler.warp(scores, rows)
        return torch.full_like(scores, -torch.inf).scatter(1, ids, warped.float())

    def _likeliest(self, scores: Tensor) -> list[tuple[float, Continuation]]:
        """The best 2 * beams continuations of all beams, with their summed scores."""
        totals = (scores.cpu() + torch.tensor(self._totals).unsqueeze(1)).flatten()
        keep = min(2 * self.sampling.num_beams, int(totals.isfinite().sum()))
        if not self.sampling.greedy:
            places = torch.multinomial(totals.softmax(dim=-1), keep, generator=self._generator)
            places = places[totals[places].argsort(descending=True)]
        else:
            places = totals.topk(keep).indices
        vocab = scores.shape[1]
        return [(float(totals[place]), Continuation(*divmod(place, vocab))) for place in places.tolist()]

    def _finish(self, score: float, answer: list[int]) -> None:
        self._finished.append((score, answer))
        self._finished.sort(key=lambda entry: -entry[0])
        del self._finished[self.sampling.num_beams :]

    def _over(self, count: int) -> bool:
        """Whether no running beam can still beat the worst finished one."""
        if not self._totals:
            return True
        full = len(self._finished) == self.sampling.num_beams
        return full and self._totals[0] / count <= self._finished[-1][0]
