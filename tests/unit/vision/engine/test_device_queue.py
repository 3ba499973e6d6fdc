"""Steps are queued on a device without waiting for it: the host reads nothing but the tokens, in one place.

The engine's own loop runs on torch's meta device, which has no numbers to wait for, and every operation is looked at.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.meta_model import META, meta_model
from workers.vision.bench.random_model import SMALL, shapes
from workers.vision.engine import model_runner
from workers.vision.engine.base import Done, EngineRequest, Sampling
from workers.vision.engine.core import EngineCore, Parts
from workers.vision.engine.engine_thread import Outcome
from workers.vision.engine.handle import RequestHandle
from workers.vision.engine.model_runner import ModelRunner
from workers.vision.engine.step_budget import StepBudget
from workers.vision.model.decode_steps import DecodeSteps
from workers.vision.model.graph import GraphPool
from workers.vision.model.kv_pages import KVPages
from workers.vision.model.tower_graphs import TowerGraphs
from workers.vision.prompts import IMAGE_CONTEXT, ImageSpan, Prompt

CONFIG, TOKENIZER = shapes(SMALL)
SLOTS, PAGES, TOKEN = 6, 200, 300
#: Their results, or the shapes of these, depend on numbers of the device.
WAITING = {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal", "_unique2", "unique_dim"}


class HostWaited(AssertionError):
    """An operation made the host wait for the device."""


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses operations that wait for the device, copies from it, and copies to it that are not queued."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket.__name__ in WAITING:
            raise HostWaited(func)
        found = func(*args, **kwargs)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if isinstance(found, Tensor):
            sources = {arg.device for arg in tensors if arg.ndim}
            if found.device != META and META in sources:
                raise HostWaited(func)
            moved = found.device == META and torch.device("cpu") in sources
            if moved and not (kwargs.get("non_blocking") or any(arg is True for arg in args)):
                raise HostWaited(func)
        return found


class ConstantTokens:
    """In place of `Readback`: the one place that reads from a device."""

    def __init__(self, values: Tensor) -> None:
        self._count = len(values)

    def read(self) -> list[int]:
        return [TOKEN] * self._count


def request(number: int, tiles: int, sampling: Sampling, mask: bool = False) -> EngineRequest:
    drawn = np.random.default_rng(number)
    places = tiles * CONFIG.tokens_per_tile
    ids = [*drawn.integers(300, 400, 30).tolist(), *[TOKENIZER.token_id(IMAGE_CONTEXT)] * places, 300]
    pixels = drawn.integers(0, 256, (tiles, CONFIG.vision.image, CONFIG.vision.image, 3), np.uint8)
    spans = (ImageSpan(30, places, tiles),) if tiles else ()
    allowed = np.ones(CONFIG.decoder.vocab, np.bool_)
    prompt = Prompt(ids, spans, "")
    return EngineRequest(str(number), prompt, pixels, sampling, token_mask=(lambda _: allowed) if mask else None)


REQUESTS = (
    request(0, 1, Sampling(max_new_tokens=12)),
    request(1, 3, Sampling(max_new_tokens=9)),
    request(2, 0, Sampling(max_new_tokens=9, repetition_penalty=1.3)),
    request(3, 1, Sampling(max_new_tokens=7, temperature=0.8, top_p=0.9, seed=1)),
    request(4, 0, Sampling(max_new_tokens=7), mask=True),
)


@pytest.mark.parametrize("graphs", [True, False])
def test_no_step_of_tiles_prompts_or_answers_waits_for_the_device(
    graphs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_runner, "Readback", ConstantTokens)
    model = meta_model(SMALL)
    pages = KVPages(CONFIG.decoder, PAGES, torch.bfloat16, model.decoder.devices)
    newest = torch.zeros(SLOTS + 1, dtype=torch.int64, device=META)
    pool = GraphPool(META)
    encode = TowerGraphs(model.encoder, pool) if graphs else None
    steps = DecodeSteps(model.decoder, pages, newest).record(pool) if graphs else None
    budget = StepBudget(128, 2, 1.0, 1e9, 1e-9, 1e-9)  # prompts come in chunks beside answers
    runner = ModelRunner(model, pages, newest, encode, steps)
    outcomes: list[Outcome] = []
    parts = Parts(runner, CONFIG, TOKENIZER, PAGES, 1 << 20, SLOTS, budget, pipelined=True)
    core = EngineCore(parts, lambda _, outcome: outcomes.append(outcome), lambda: None)
    sequences = [core.prepare(RequestHandle(request), number) for number, request in enumerate(REQUESTS)]
    with NoWaiting():  # type: ignore[no-untyped-call]
        for sequence in sequences:
            core.add(sequence)
        while core.busy:
            core.step()
    answered = [outcome.completion_tokens for outcome in outcomes if isinstance(outcome, Done)]
    assert sorted(answered) == sorted(request.sampling.max_new_tokens for request in REQUESTS), outcomes


@pytest.mark.parametrize(
    "wait",
    [
        lambda numbers: numbers.sum().item(),
        lambda numbers: numbers.tolist(),
        lambda numbers: numbers.cpu(),
        lambda numbers: torch.zeros(3).copy_(numbers),
        lambda numbers: numbers.nonzero(),
        lambda numbers: numbers[numbers > 0],
        lambda numbers: bool(numbers.any()),
        lambda numbers: torch.arange(3).to(META),
        lambda numbers: numbers.copy_(torch.zeros(3)),
    ],
)
def test_what_waits_is_noticed(wait: Callable[[Tensor], object]) -> None:
    with pytest.raises((HostWaited, NotImplementedError, RuntimeError)), NoWaiting():  # type: ignore[no-untyped-call]
        wait(torch.empty(3, device=META))
