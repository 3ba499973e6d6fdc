"""The next token: greedy, drawn, penalised, masked, as transformers' processors have it."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workers.vision.engine import sampler
from workers.vision.engine.base import EngineRequest, Sampling, TokenMask
from workers.vision.engine.sampler import Row, adjust, warp
from workers.vision.prompts import Prompt

VOCAB = 200


def row(generated: Sequence[int] = (), seed: int = 0, mask: TokenMask | None = None, **sampling: Any) -> Row:
    tiles = np.zeros((0, 1, 1, 3), np.uint8)
    request = EngineRequest("job", Prompt([1], (), ""), tiles, Sampling(**sampling), token_mask=mask)
    return Row(request, generated, random.Random(seed))


def logits(rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def sample(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    found: list[int] = sampler.sample(logits, rows).tolist()
    return found


def test_without_temperature_the_largest_wins() -> None:
    drawn = logits(3)
    assert sample(drawn, [row()] * 3) == drawn.argmax(dim=-1).tolist()


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 0, 7])
@pytest.mark.parametrize("top_p", [None, 0.05, 0.7])
@pytest.mark.parametrize("penalty", [None, 1.7])
def test_what_is_left_to_draw_from_is_what_transformers_leaves(
    temperature: float, top_k: int | None, top_p: float | None, penalty: float | None
) -> None:
    generated = [3, 5, 5, 9]
    chosen = row(generated, temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
    processors: list[LogitsProcessor] = [RepetitionPenaltyLogitsProcessor(penalty)] if penalty else []
    processors.append(TemperatureLogitsWarper(temperature))
    processors += [TopKLogitsWarper(50 if top_k is None else top_k)] if top_k != 0 else []
    processors += [TopPLogitsWarper(top_p)] if top_p else []
    processed: Any = LogitsProcessorList(processors)
    expected = processed(torch.tensor([generated]), logits()).softmax(dim=-1)
    best, ids = warp(adjust(logits(), [chosen]), [chosen])
    found = torch.zeros(1, VOCAB, dtype=best.dtype).scatter(1, ids, best.softmax(dim=-1))
    assert torch.allclose(found.float(), expected, atol=1e-6)


def test_draws_have_the_shares_of_their_tokens() -> None:
    drawn = torch.tensor([[0.0, 1.0, 2.0, -5.0]])
    chosen = row(temperature=1.0, top_k=0)
    counts = np.bincount([sample(drawn.clone(), [chosen])[0] for _ in range(4000)], minlength=4) / 4000
    assert np.allclose(counts, drawn.softmax(dim=-1)[0], atol=0.03)


def test_a_seed_draws_the_same_whoever_else_is_in_the_batch() -> None:
    drawn = logits(6)
    wide = [row(seed=n, temperature=1.0 + n, top_k=0 if n % 2 else 5) for n in range(6)]
    alone = [
        sample(drawn[n : n + 1].clone(), [row(seed=n, temperature=1.0 + n, top_k=0 if n % 2 else 5)]) for n in range(6)
    ]
    assert [[token] for token in sample(drawn.clone(), wide)] == alone


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
def test_extreme_temperatures_draw_a_token_all_the_same(temperature: float) -> None:
    (token,) = sample(logits() * 1e4, [row(temperature=temperature, top_k=5)])
    assert token in logits().topk(5).indices


def test_a_mask_leaves_only_what_it_allows() -> None:
    allowed = np.zeros(VOCAB, dtype=np.bool_)
    allowed[[4, 8]] = True
    for temperature in (0, 2.0):
        chosen = row(mask=lambda _: allowed, temperature=temperature, top_k=0)
        assert sample(logits(), [chosen])[0] in (4, 8)


def test_a_mask_is_asked_with_what_was_generated() -> None:
    asked: list[Sequence[int]] = []

    def mask(generated: Sequence[int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        asked.append(generated)
        return np.ones(VOCAB, dtype=np.bool_)

    sample(logits(), [row([7, 8], mask=mask)])
    assert asked == [[7, 8]]


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_rows_that_are_not_finite_are_told(temperature: float) -> None:
    broken = logits(3)
    broken[1, 0] = torch.nan
    broken[2, 9] = torch.inf
    assert [token >= 0 for token in sample(broken, [row(temperature=temperature)] * 3)] == [True, False, False]
