"""Static buffers, graphs' twins and tokens read one step behind say what the plain loop says, token for token."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.vision.engine.test_engines import asked
from tests.integration.vision.engine.test_resident import finished, together, variety
from tests.random_checkpoint import write_random
from tests.waiting import eventually
from workers.vision.checkpoint.checkpoint import Checkpoint, open_checkpoint
from workers.vision.engine.assembly import resident_engine
from workers.vision.engine.base import Delta
from workers.vision.engine.errors import Cancelled, DeadlineExceeded, NonFiniteLogits
from workers.vision.engine.factory import ServedModel
from workers.vision.engine.model_runner import Forward
from workers.vision.engine.resident import ResidentEngine
from workers.vision.model import fast_path
from workers.vision.model.kv_pages import page_bytes
from workers.vision.model.loader import LoadOptions, load_packed

Start = Callable[..., ServedModel]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_random(Path(tmp_path_factory.mktemp("model")) / "tileq-demo"))


@pytest.fixture
def start(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts an engine with every fast path, all of which count as equally fast, or with none."""
    monkeypatch.setattr(fast_path, "_seconds", lambda *_: 1.0)
    model = load_packed(checkpoint, LoadOptions("cpu", "float32"), lambda _: None)
    started: list[ResidentEngine] = []

    def build(fast: bool = True, pages: int = 600, slots: int = 5) -> ServedModel:
        size = pages * page_bytes(checkpoint.config.decoder, torch.float32)
        engine = resident_engine(model, checkpoint.config, checkpoint.tokenizer, slots=slots, kv_bytes=size, fast=fast)
        started.append(engine)
        return ServedModel(engine, checkpoint.model, checkpoint.config.vision.image, checkpoint.prompt_format)

    yield build
    for engine in started:
        engine.close()


def core(served: ServedModel) -> Any:
    assert isinstance(served.engine, ResidentEngine)
    return served.engine._core


def test_every_path_is_used_where_it_agrees(start: Start) -> None:
    served = start()
    assert dict(served.engine.stats().fast_paths) == dict.fromkeys(
        ("tower graphs", "decode graphs", "pipelining"), "used"
    )
    assert core(served)._pipelined


def test_both_ways_say_the_same_to_requests_of_every_kind(start: Start) -> None:
    plain, fast = start(fast=False), start()
    requests = variety(plain)[:9]
    requests[4] = replace(requests[4], sampling=replace(requests[4].sampling, stop=("a", "e", "1")))
    expected = together(plain, requests)
    found = together(fast, requests)
    for one, other in zip(found, expected, strict=True):
        assert (one.text, one.finish_reason, one.completion_tokens) == (
            other.text,
            other.finish_reason,
            other.completion_tokens,
        )
    assert fast.engine.stats().used_pages == 0
    ended_by_tokens = sum(done.finish_reason == "stop" for done in found)
    assert fast.engine.stats().discarded_rows <= ended_by_tokens
    assert plain.engine.stats().discarded_rows == 0


def test_preemption_changes_no_text(start: Start) -> None:
    plain, narrow = start(fast=False), start(pages=26)
    requests = [
        asked(plain, f"job-{n}", tiles=0, text=f"Question {n}", max_new_tokens=150, temperature=0.9 * (n % 2), seed=n)
        for n in range(4)
    ]
    assert [done.text for done in together(narrow, requests)] == [done.text for done in together(plain, requests)]
    assert narrow.engine.stats().preemptions > 0
    assert narrow.engine.stats().used_pages == 0


def test_a_cancelled_and_a_late_request_leave_beside_one_that_goes_on(start: Start) -> None:
    served = start()
    expected = finished(start(fast=False), asked(served, "stays", max_new_tokens=60)).text
    staying = served.engine.submit(asked(served, "stays", max_new_tokens=60))
    events = served.engine.submit(asked(served, "leaves", tiles=0, max_new_tokens=5000))
    assert any(isinstance(event, Delta) for event in events)
    served.engine.cancel("leaves")
    with pytest.raises(Cancelled):
        list(events)
    with pytest.raises(DeadlineExceeded):
        list(served.engine.submit(replace(asked(served, "late", tiles=0), deadline=0.0)))
    assert "".join(event.text for event in staying if isinstance(event, Delta)) == expected
    eventually(lambda: served.engine.stats().used_pages == 0)


def test_non_finite_logits_end_only_their_request(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    served = start()
    runner = core(served)._runner
    forward = runner.forward

    def broken(chunks: Any) -> Forward:
        found: Forward = forward(chunks)
        for row, chunk in enumerate(found.chunks):
            if chunk.sequence.request.id == "broken" and chunk.sequence.count > 2:
                found.logits[row, 5] = torch.nan
        return replace(found, likeliest=None)

    monkeypatch.setattr(runner, "forward", broken)
    healthy = served.engine.submit(asked(served, "healthy", image=1))
    with pytest.raises(NonFiniteLogits):
        list(served.engine.submit(asked(served, "broken", image=2)))
    assert "".join(event.text for event in healthy if isinstance(event, Delta)) == (
        finished(start(fast=False), asked(served, "healthy", image=1)).text
    )
