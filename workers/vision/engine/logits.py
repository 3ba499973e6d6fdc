"""Logits processors for stock generation: which token comes next, drawn from a generator of the request's own.

`generate` has no argument for a random generator and calls `torch.multinomial` on the global one. So for one sequence
it is asked for its largest score, and the last processor leaves the drawn token as the only finite one.

    logits (B, vocab) ── finite? ── repetition penalty, finite? ── mask ── temperature ── top-k ── top-p ── draw
"""

import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workers.vision.engine.base import DEFAULT_TOP_K, EngineRequest, NonFiniteLogits, Sampling, TokenMask


def processors(request: EngineRequest, dtype: torch.dtype, device: torch.device) -> LogitsProcessorList:
    """Return the processors of one request. `dtype` is that of the model, for the message of `NonFiniteLogits`."""
    sampling = request.sampling
    kind = str(dtype).removeprefix("torch.")
    found: list[LogitsProcessor] = [FiniteCheck(f"the model computed NaN or infinity in {kind}; {_remedy(dtype)}")]
    penalty = sampling.repetition_penalty
    if penalty not in (None, 1.0):
        found += [
            RepetitionPenaltyLogitsProcessor(penalty),
            FiniteCheck(f"a repetition_penalty of {penalty:g} makes logits infinite; use one nearer to 1"),
        ]
    if request.token_mask:
        found.append(Masked(request.token_mask))
    if sampling.num_beams == 1 and not sampling.greedy:
        found += [*_warpers(sampling), SeededDraw(sampling.seed, device)]
    return LogitsProcessorList(found)


class FiniteCheck(LogitsProcessor):
    """Raises `NonFiniteLogits` with `message`: an arg-max over NaN would be token 0, and a draw a failed assertion."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return `scores` (B, vocab) if all are finite."""
        del input_ids
        if not bool(torch.isfinite(scores).all()):
            raise NonFiniteLogits(self._message)
        return scores


class Masked(LogitsProcessor):
    """Leaves the tokens that a mask allows; of one sequence."""

    def __init__(self, mask: TokenMask) -> None:
        self._mask = mask

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return (1, vocab): minus infinity at the tokens that may not come next."""
        allowed = torch.from_numpy(self._mask(input_ids[0].tolist())).to(scores.device)
        return scores.masked_fill(~allowed, -torch.inf)


class SeededDraw(LogitsProcessor):
    """Draws a token of each row and leaves its score alone finite. Without `seed`, it is seeded by the system."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return (B, vocab): 0 at the drawn tokens, minus infinity elsewhere."""
        del input_ids
        drawn = torch.multinomial(scores.softmax(dim=-1), 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


def _warpers(sampling: Sampling) -> list[LogitsProcessor]:
    top_k = DEFAULT_TOP_K if sampling.top_k is None else sampling.top_k
    warpers: list[LogitsProcessor] = [TemperatureLogitsWarper(sampling.temperature)]
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if sampling.top_p is not None and sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _remedy(dtype: torch.dtype) -> str:
    if dtype is torch.float16:
        return "serve it with TILEQ_DTYPE=bfloat16 or float32, whose range is larger"
    return "check the checkpoint's files against their checksums"
