"""What transformers' `generate` needs to answer a request: how to choose tokens, what sees each token, when to stop.

logits (B, vocab) ── finite? ── repetition penalty, finite? ── mask ──> temperature, top-k, top-p, draw
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from shared.tokenization.tokenizer import Tokenizer
from workers.vision.engine.base import DEFAULT_TOP_K, EngineRequest, Sampling, TokenMask
from workers.vision.engine.detokenize import detokenizer_of
from workers.vision.engine.errors import NonFiniteLogits
from workers.vision.engine.handle import RequestHandle


class TokenCallback(StoppingCriteria):
    """Called by `generate` after every token: reports text, and says when to stop."""

    def __init__(self, handle: RequestHandle, tokenizer: Tokenizer, stop: str, token_done: Callable[[], None]) -> None:
        """`stop` is the template's separator."""
        self._handle = handle
        self._token_done = token_done
        self._beams = handle.request.sampling.num_beams > 1
        self.text = detokenizer_of(handle.request, tokenizer, stop)
        self.count = 0

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Any:
        """Take the newest token. Beams change until the end, so their text comes at once, with `finish`."""
        self._token_done()
        if not self.count:
            self._handle.stage("decode")
        if self._beams:
            self.count = input_ids.shape[1]
        elif not self.text.stopped:  # on a GPU the loop may run a step ahead of our word, and takes it back later
            self._take(int(input_ids[0, -1]))
        return torch.full((len(input_ids),), self._handle.cancelled or self.text.stopped, device=input_ids.device)

    def finish(self, output: Tensor) -> None:
        """Report the text that is left of `output` (N,)."""
        if self._beams:
            self.count = 0
            for token in output.tolist():
                if not self.text.stopped:
                    self._take(token)
        self._handle.delta(self.text.finish(), self.count)

    def _take(self, token: int) -> None:
        self.count += 1
        self._handle.delta(self.text.push(token), self.count)


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


def logits_processors(request: EngineRequest, dtype: torch.dtype) -> LogitsProcessorList:
    """What stands before `generate`'s own processors; `dtype`, that of the model, is for a message."""
    remedy = "check the checkpoint's files against their checksums"
    if dtype is torch.float16:
        remedy = "serve it with TILEQ_DTYPE=bfloat16 or float32, whose range is larger"
    kind, penalty = str(dtype).removeprefix("torch."), request.sampling.repetition_penalty
    found: list[LogitsProcessor] = [FiniteCheck(f"the model computed NaN or infinity in {kind}; {remedy}")]
    if penalty not in (None, 1.0):
        found += [
            RepetitionPenaltyLogitsProcessor(penalty),
            FiniteCheck(f"a repetition_penalty of {penalty:g} makes logits infinite; use one nearer to 1"),
        ]
    if request.token_mask:
        found.append(Masked(request.token_mask))
    return LogitsProcessorList(found)


def generation_config(sampling: Sampling, max_new_tokens: int, end: int) -> GenerationConfig:
    """`sampling` as transformers' configuration; `end`: the token that ends an answer."""
    options: dict[str, Any] = {"do_sample": False}
    if not sampling.greedy:
        options = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": 1.0 if sampling.top_p is None else sampling.top_p,
            "top_k": DEFAULT_TOP_K if sampling.top_k is None else sampling.top_k,
        }
    make: Any = GenerationConfig
    config: GenerationConfig = make(
        max_new_tokens=max_new_tokens, num_beams=sampling.num_beams, eos_token_id=end, pad_token_id=end, **options
    )
    return config


@contextmanager
def global_seed(sampling: Sampling, device: torch.device) -> Iterator[None]:
    """Seed the global generator for as long as tokens are drawn: `generate` draws from no other."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if sampling.seed is None:
            torch.seed()
        else:
            torch.manual_seed(sampling.seed)
        yield
